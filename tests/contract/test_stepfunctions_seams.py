"""The parts of moto that the embedded cloud replaces are still where they were."""

import dataclasses
import subprocess
import sys

import pytest

from localaws import lambdas, stepfunctions
from localaws.seams import Seam, SeamMoved, install

SEAMS = [*stepfunctions.SEAMS, *lambdas.SEAMS]


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.path)
def test_the_part_is_there_and_takes_the_same_parameters(seam: Seam) -> None:
    assert seam.check() is not None


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.path)
def test_a_part_that_is_gone_is_named(seam: Seam) -> None:
    gone = dataclasses.replace(seam, path=f"{seam.path}_of_another_release")
    with pytest.raises(SeamMoved, match=gone.path):
        gone.check()


def test_other_parameters_are_refused_and_nothing_is_replaced() -> None:
    first, second = stepfunctions.SEAMS[:2]
    moved = dataclasses.replace(second, parameters=("self", "something", "else"))
    before = first.check()
    with pytest.raises(SeamMoved, match=moved.path):
        install([first, moved])
    assert first.check() is before


def test_installing_twice_wraps_once() -> None:
    install(SEAMS)
    before = [seam.check() for seam in SEAMS]
    install(SEAMS)
    assert [seam.check() for seam in SEAMS] == before


def test_the_interpreter_makes_its_clients_where_we_replace_them() -> None:
    from moto.stepfunctions.parser.asl.component.state.exec.state_task import lambda_eval_utils
    from moto.stepfunctions.parser.asl.utils import boto_client

    stepfunctions.install()
    stepfunctions.connect("http://127.0.0.1:9", None)
    try:
        client = lambda_eval_utils.boto_client_for("us-east-1", "lambda")
        assert lambda_eval_utils.boto_client_for is boto_client.boto_client_for
        assert client.meta.endpoint_url == "http://127.0.0.1:9"
        assert lambda_eval_utils.boto_client_for("us-east-1", "lambda") is client
    finally:
        stepfunctions.connect(None, None)


def test_what_the_cloud_resets_and_switches_is_there() -> None:
    from moto.core.base_backend import BackendDict
    from moto.core.config import default_user_config
    from moto.core.model_instances import reset_model_data
    from moto.stepfunctions.parser.utils import TMP_THREADS

    assert callable(BackendDict.reset)
    assert callable(reset_model_data)
    assert {"lambda", "stepfunctions"} <= default_user_config.keys()
    assert isinstance(TMP_THREADS, list)


LEAN = """
import sys
from localaws import stepfunctions

stepfunctions.install()
stepfunctions.install()
assert not [name for name in sys.modules if name.startswith(("moto.ec2", "moto.batch"))]
import moto.batch
import moto.batch.models
assert moto.batch.batch_backends is moto.batch.models.batch_backends
"""


def test_the_interpreter_comes_without_ec2_and_batch_is_whole_for_others() -> None:
    done = subprocess.run([sys.executable, "-c", LEAN], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_switch_for_cross_origin_answers_is_there() -> None:
    from moto.moto_server import werkzeug_app

    assert isinstance(werkzeug_app.DISABLE_GLOBAL_CORS, bool)
