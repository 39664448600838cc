"""The names of a plan's classes and labels, in the order in which predictions count them. No numpy."""

from dropmill.contracts import Layout, Plan, Task
from dropmill.labels import class_name


def class_names(plan: Plan) -> list[str]:
    """The classes' names by index: those of the labels, or `not <positive>` and `<positive>`."""
    positive = plan.recipe.data.positive
    if plan.task is Task.BINARY and positive is not None:
        name = class_name(positive)
        name = next((known for known in plan.layout.classes or [] if class_name(known) == name), name)
        return [f"not {name}", name]
    return label_names(plan.layout)


def label_names(layout: Layout) -> list[str]:
    """The distinct labels, in order, as people write them: classes by name, numbers in short."""
    values = layout.label_values or []
    if layout.classes is not None:
        return [layout.classes[int(value)] for value in values]
    names = [f"{value:g}" for value in values]
    return names if len(set(names)) == len(names) else [class_name(value) for value in values]


def predicted_classes(plan: Plan) -> list[str]:
    """The names of the classes that a plan's model answers; none of a regressor or of clusters."""
    return class_names(plan) if plan.task in (Task.BINARY, Task.MULTICLASS) else []
