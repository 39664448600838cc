"""Where the cgroups of held processes go, on the systems that there are; test_lambdas.py asks the kernel itself."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from localaws import memory
from localaws.memory import Hold, Parent


class System:
    """Folders that look like a system's cgroups."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounts = folder / "mountinfo"
        self.membership = folder / "cgroup"
        self.top = folder / "sys"

    def mount(self, kind: str, options: str, *, root: str = "/") -> None:
        line = f"35 31 0:32 {root} {self.top} rw,relatime shared:9 - {kind} {kind} {options}\n"
        self.mounts.write_text(f"31 23 0:28 / /elsewhere rw - tmpfs tmpfs rw\n{line}")

    def group(self, path: str, **files: str) -> Path:
        folder = self.top / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text)
        return folder

    def parent(self) -> Parent | None:
        return memory.find_parent(self.mounts, self.membership)


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def test_version_1_has_them_below_this_process_s_own(system: System) -> None:
    system.mount("cgroup", "rw,memory")
    system.membership.write_text("5:cpu:/\n4:memory,hugetlb:/user/me\n0::/\n")
    own = system.group("user/me")
    assert system.parent() == Parent(own, 1)


def test_a_container_sees_its_own_part_alone(system: System) -> None:
    system.mount("cgroup", "rw,memory", root="/docker/abc")
    system.membership.write_text("4:memory:/docker/abc\n")
    system.group("")
    assert system.parent() == Parent(system.top, 1)
    system.membership.write_text("4:memory:/docker/other\n")
    assert system.parent() is None


def test_version_2_has_them_beside_this_process_s_own(system: System) -> None:
    system.mount("cgroup2", "rw,nsdelegate")
    system.membership.write_text("0::/user.slice/session-1.scope\n")
    system.group("", cgroup__subtree_control="cpu memory")
    beside = system.group("user.slice", cgroup__subtree_control="memory pids", memory__max="max")
    own = system.group("user.slice/session-1.scope", cgroup__subtree_control="", memory__max="max\n")
    assert system.parent() == Parent(beside, 2)

    (own / "memory.max").write_text("1000000000\n")
    assert system.parent() is None, "a limit on this process would be escaped"


def test_version_2_without_the_controller_has_none(system: System) -> None:
    system.mount("cgroup2", "rw")
    system.membership.write_text("0::/mine\n")
    system.group("", cgroup__subtree_control="")
    system.group("mine", cgroup__subtree_control="")
    assert system.parent() is None


def test_a_system_without_cgroups_has_none(system: System) -> None:
    assert system.parent() is None
    system.mounts.write_text("31 23 0:28 / /elsewhere rw - tmpfs tmpfs rw\n")
    system.membership.write_text("")
    assert system.parent() is None


def test_a_limit_is_written_and_the_cgroup_removed(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "rmdir", lambda folder: (folder.rename(system.folder / "removed"), None)[1])
    own = system.group("own")
    hold = Hold(100, Parent(own, 2))
    assert hold.group is not None
    assert hold.group.parent == own
    assert hold.prefix[-1] == str(hold.group / "cgroup.procs")
    assert (hold.group / "memory.max").read_text() == str(100 << 20)
    assert not hold.ran_out
    (hold.group / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    asyncio.run(hold.release())
    assert list(own.iterdir()) == []
    assert hold.ran_out


def test_what_a_killed_cloud_left_is_removed_and_nothing_else(system: System) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    own = system.group("own")
    left = system.group(f"own/localaws-{ended.pid}-3")
    others = [system.group("own/localaws-1-0"), system.group(f"own/other-{ended.pid}-3")]
    Hold(100, Parent(own, 1))
    assert not left.exists()
    assert all(other.exists() for other in others)


def test_a_cgroup_that_cannot_be_made_leaves_the_other_limit(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    own = system.group("own")

    def refuse(_folder: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "mkdir", refuse)
    hold = Hold(100, Parent(own, 1))
    assert hold.group is None
    most = 100 + memory.ALLOWANCE_MB + memory.CORE_ALLOWANCE_MB * (os.cpu_count() or 1)
    said = subprocess.run([*hold.prefix, "sh", "-c", "ulimit -d"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(most * 1024)
