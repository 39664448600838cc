"""DescribeStacks for what was deployed: how a client finds a stack's outputs, here as on AWS.

moto's CloudFormation answers; each deployed stack is entered there as a template of outputs alone. It takes most of a
second to import, so that happens when somebody first asks.
"""

import json
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localaws.template import Stack


class Stacks:
    def __init__(self, *, region: str, account_id: str) -> None:
        self._region = region
        self._account_id = account_id
        self._lock = threading.Lock()
        self._serving = False
        self._stacks: dict[str, Stack] = {}

    def add(self, stack: "Stack") -> None:
        """Make a deployed stack known."""
        with self._lock:
            self._stacks[stack.name] = stack
            if self._serving:
                self._enter(stack)

    def serve(self) -> None:
        """Answer from now on. Called before the first CloudFormation request is."""
        with self._lock:
            self._serving = True
            for stack in self._stacks.values():
                self._enter(stack)

    def _enter(self, stack: "Stack") -> None:
        from moto.cloudformation.models import cloudformation_backends

        outputs = {name: {"Value": value} for name, value in stack.outputs.items()}
        template = {"AWSTemplateFormatVersion": "2010-09-09", "Resources": {}, "Outputs": outputs}
        backend = cloudformation_backends[self._account_id][self._region]
        backend.create_stack(name=stack.name, template=json.dumps(template), parameters={})
