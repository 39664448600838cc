"""An embedded cloud with the application deployed, for as long as a block runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dropmill_cli.errors import CommandError
from dropmill_cli.stack import LOCAL_REGION, LOCAL_STACK, Stack, point_at, use

if TYPE_CHECKING:
    from localaws.cloud import Cloud


def template_path() -> Path:
    """The application's template, beside the packages in a checkout.

    Raises:
        CommandError: this is no checkout.
    """
    path = Path(__file__).resolve().parents[2] / "template.yaml"
    if not path.is_file():
        raise CommandError(f"an embedded cloud deploys {path}, which is not there; run dropmill from a checkout")
    return path


@contextmanager
def embedded_cloud(
    host: str = "127.0.0.1",
    port: int = 0,
    region: str = LOCAL_REGION,
    *,
    rules: bool = True,
    faults: Path | None = None,
) -> "Iterator[tuple[Cloud, Stack]]":
    """Start a cloud, deploy the application, and end everything with the block.

    The rules of the file `faults` stand from the first request after the deployment.

    Raises:
        CommandError: it can't start (the port is taken, say), or the template or `faults` can't be used.
    """
    from localaws.cloud import Cloud, CloudError
    from localaws.faults import FaultError, read
    from localaws.resources import TemplateError

    template = template_path()
    try:
        if faults is not None:
            read(faults)
    except FaultError as error:
        raise CommandError(str(error)) from None
    cloud = Cloud(host, port, region, rules=rules)
    try:
        cloud.start()
    except CloudError as error:
        raise CommandError(str(error)) from None
    try:
        try:
            deployed = cloud.deploy(template, stack_name=LOCAL_STACK, prewarm=rules)
        except TemplateError as error:
            raise CommandError(str(error)) from None
        if faults is not None:
            cloud.faults.load(faults)
        point_at(cloud.endpoint_url, region)
        yield cloud, use(LOCAL_STACK, deployed.outputs, cloud.endpoint_url)
    finally:
        cloud.stop()
