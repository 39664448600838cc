"""Training on several instances: each hands its shard of the data to the first, which makes one model of all of it.

SageMaker's instances have a network. Here they have a folder in common, which SAGEMAKER_HOSTS_DIR names, with a named
pipe `<host>.done` for each instance but the first. An instance moves its sharded channels to `<host>/<channel>` and
then writes to its pipe; the first one reads every pipe before it looks. Opening a pipe waits for the other side, and
whoever waits for an instance that has failed is ended by the service. Replicated channels need no exchange.
"""

import os
from pathlib import Path

from localaws.algorithms.toolkit import Container, UserError, log

FOLDER = "SAGEMAKER_HOSTS_DIR"
SHARDED = "ShardedByS3Key"


def exchange(container: Container) -> bool:
    """Hand this instance's shards over, or wait for all the others' if it is the first. True: it is the first.

    Raises UserError where instances have no folder in common.
    """
    hosts = container.hosts()
    leads = container.host() == hosts[0]
    if len(hosts) == 1:
        return True
    folder = _folder()
    if leads:
        for host in hosts[1:]:
            with (folder / f"{host}.done").open("rb") as pipe:
                pipe.read(1)
        log.info("Received the shards of %s", ", ".join(hosts[1:]))
        return True
    own = folder / container.host()
    own.mkdir()
    for name in _sharded(container):
        if container.channel(name).is_dir():
            container.channel(name).rename(own / name)
    with (folder / f"{container.host()}.done").open("wb") as pipe:
        pipe.write(b"1")
    log.info("Handed the shards of %s over to %s", container.host(), hosts[0])
    return False


def channel_folders(container: Container, name: str) -> list[Path]:
    """Where a channel's files lie: this instance's folder and, on the first, those handed over. Empty: no channel."""
    folders = [container.channel(name)]
    if len(container.hosts()) > 1 and name in _sharded(container):
        folders += [_folder() / host / name for host in container.hosts()[1:]]
    return [folder for folder in folders if folder.is_dir()]


def _sharded(container: Container) -> list[str]:
    channels = container.config("inputdataconfig")
    return [name for name, channel in channels.items() if channel.get("S3DistributionType") == SHARDED]


def _folder() -> Path:
    if not os.environ.get(FOLDER):
        raise UserError(f"training on several instances needs a folder that they share, named by {FOLDER}")
    return Path(os.environ[FOLDER])
