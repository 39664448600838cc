"""CloudFormation's API for what was deployed: how a client finds a stack, its outputs and resources, and deletes it.

moto's CloudFormation answers; each deployed stack is entered there as a template of outputs and parameters alone, and
what moto would say of its resources is replaced. It takes most of a second to import, so that happens when somebody
first asks.
"""

import json
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from localaws import seams
from localaws.removal import Removal, reason_text, remove
from localaws.seams import Seam

if TYPE_CHECKING:
    from localaws.lambdas import Lambdas
    from localaws.template import Stack

_serving: "Stacks | None" = None


class Stacks:
    def __init__(
        self, *, region: str, account_id: str, client: Callable[[str], Any], lambdas: Callable[[], "Lambdas"]
    ) -> None:
        self._region = region
        self._account_id = account_id
        self._client = client
        self._lambdas = lambdas
        self._lock = threading.Lock()
        self._serving = False
        self._stacks: dict[str, Stack] = {}
        self._by_id: dict[str, Stack] = {}
        self._removals: dict[str, Removal] = {}

    def add(self, stack: "Stack") -> None:
        """Make a deployed stack known."""
        with self._lock:
            self._stacks[stack.name] = stack
            if self._serving:
                self._enter(stack)

    def serve(self) -> None:
        """Answer from now on. Called before the first CloudFormation request is.

        Raises SeamMoved if the installed moto is not the one that this was written for.
        """
        global _serving  # moto's classes are the process's, and so is whom they ask
        seams.install(SEAMS)
        with self._lock:
            self._serving = True
            _serving = self
            for stack in self._stacks.values():
                self._enter(stack)

    def close(self) -> None:
        global _serving
        if _serving is self:
            _serving = None

    def of(self, entry: Any) -> "Stack | None":
        """The deployed stack that an entry of moto's stands for."""
        return self._by_id.get(entry.stack_id)

    def status(self, entry: Any, logical_id: str) -> str:
        removal = self._removals.get(entry.stack_id)
        return removal.statuses.get(logical_id, "CREATE_COMPLETE") if removal else "CREATE_COMPLETE"

    def delete(self, entry: Any) -> bool:
        """Delete a deployed stack's resources; False, and the stack says why, where some could not be."""
        stack = self._by_id[entry.stack_id]
        removal = remove(stack, client=self._client, lambdas=self._lambdas())
        self._removals[entry.stack_id] = removal
        if removal.complete:
            self._stacks.pop(stack.name, None)
            return True
        entry.status = "DELETE_FAILED"
        entry.stack_status_reason = reason_text(removal)
        return False

    def holder(self, physical_id: str) -> Any:
        """The entry of the stack that holds a resource; None where none does."""
        from moto.cloudformation.models import cloudformation_backends

        for entry in cloudformation_backends[self._account_id][self._region].stacks.values():
            stack = self.of(entry)
            if stack is not None and physical_id in stack.resources.values():
                return entry
        return None

    def _enter(self, stack: "Stack") -> None:
        from moto.cloudformation.models import cloudformation_backends

        outputs = {name: {"Value": value} for name, value in stack.outputs.items()}
        parameters = {name: {"Type": "String"} for name in stack.parameters}
        template = {
            "AWSTemplateFormatVersion": "2010-09-09",
            "Parameters": parameters,
            "Resources": {},
            "Outputs": outputs,
        }
        backend = cloudformation_backends[self._account_id][self._region]
        entry = backend.create_stack(name=stack.name, template=json.dumps(template), parameters=dict(stack.parameters))
        self._by_id[entry.stack_id] = stack


def _resource(stacks: Stacks, entry: Any, logical_id: str) -> dict[str, Any]:
    stack = stacks.of(entry)
    assert stack is not None  # noqa: S101  # the caller has looked
    return {
        "StackName": entry.name,
        "StackId": entry.stack_id,
        "LogicalResourceId": logical_id,
        "PhysicalResourceId": stack.resources[logical_id],
        "ResourceType": stack.template["Resources"][logical_id]["Type"],
        "ResourceStatus": stacks.status(entry, logical_id),
        "Timestamp": entry.creation_time,
        "LastUpdatedTimestamp": entry.creation_time,
    }


def _delete(original: Any) -> Any:
    def delete_stack(self: Any, name_or_stack_id: str) -> None:
        stacks = _serving
        for entry in list(self.stacks.values()):
            if stacks is None or stacks.of(entry) is None or name_or_stack_id not in (entry.name, entry.stack_id):
                continue
            if not stacks.delete(entry):
                return
        original(self, name_or_stack_id)

    return delete_stack


def _list(original: Any) -> Any:
    def list_stack_resources(self: Any) -> Any:
        from moto.core.responses import ActionResult

        stacks = _serving
        entry = self.cloudformation_backend.get_stack(self._get_param("StackName"))
        stack = stacks.of(entry) if stacks is not None else None
        if stacks is None or stack is None:
            return original(self)
        return ActionResult({"StackResourceSummaries": [_resource(stacks, entry, name) for name in stack.properties]})

    return list_stack_resources


def _describe(original: Any) -> Any:
    def describe_stack_resources(self: Any) -> Any:
        from moto.cloudformation.exceptions import ValidationError
        from moto.core.responses import ActionResult

        stacks, physical_id = _serving, self._get_param("PhysicalResourceId")
        name = self._get_param("StackName")
        if stacks is None:
            return original(self)
        entry = stacks.holder(physical_id) if physical_id else self.cloudformation_backend.get_stack(name)
        if entry is None:
            raise ValidationError(message=f"Stack for {physical_id} does not exist")
        stack = stacks.of(entry)
        if stack is None:
            return original(self)
        wanted = self._get_param("LogicalResourceId")
        names = [one for one in stack.properties if wanted is None or one == wanted]
        return ActionResult({"StackResources": [_resource(stacks, entry, one) for one in names]})

    return describe_stack_resources


SEAMS = (
    Seam("moto.cloudformation.models", "CloudFormationBackend.delete_stack", ("self", "name_or_stack_id"), _delete),
    Seam("moto.cloudformation.responses", "CloudFormationResponse.list_stack_resources", ("self",), _list),
    Seam("moto.cloudformation.responses", "CloudFormationResponse.describe_stack_resources", ("self",), _describe),
)
