"""Tell the zeros from the other digits by Linear Learner, whose hyperparameters are searched for.

The search looks at the validation rows alone, and so did the choice of what it does not search: pixels share a scale
already, and models of pixels as they are did better on those rows than models of normalized ones. The test rows are
asked of the endpoint of the best model.
"""

from __future__ import annotations

import io

import digits
import numpy as np
import sagemaker
from sagemaker.amazon.common import write_numpy_to_dense_tensor
from sagemaker.deserializers import JSONDeserializer
from sagemaker.estimator import Estimator
from sagemaker.inputs import TrainingInput
from sagemaker.serializers import CSVSerializer
from sagemaker.tuner import ContinuousParameter, HyperparameterTuner, IntegerParameter
from sagemaker.utils import name_from_base


def upload(session: sagemaker.Session, part: digits.Part, key: str) -> TrainingInput:
    """Convert rows to recordIO-protobuf, the label being 1 for a zero, and put them into the session's bucket."""
    converted = io.BytesIO()
    write_numpy_to_dense_tensor(converted, part.images, (part.labels == 0).astype("float32"))
    converted.seek(0)
    bucket = session.default_bucket()
    session.boto_session.client("s3").upload_fileobj(converted, bucket, key)
    return TrainingInput(f"s3://{bucket}/{key}", content_type="application/x-recordio-protobuf")


def main() -> None:
    parser = digits.options(__doc__)
    parser.add_argument("--jobs", type=int, default=14, metavar="N", help="Training jobs of the search. [%(default)s]")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="The search's random seed. [%(default)s]")
    given = parser.parse_args()
    data = digits.load(given)
    session = sagemaker.Session()
    prefix = "digits/linear-learner"
    channels = {
        "train": upload(session, data.train, f"{prefix}/train/rows.pbr"),
        "validation": upload(session, data.validation, f"{prefix}/validation/rows.pbr"),
    }

    linear = Estimator(
        image_uri=sagemaker.image_uris.retrieve("linear-learner", session.boto_region_name),
        role=digits.role(session),
        instance_count=1,
        instance_type="ml.m5.xlarge",
        output_path=f"s3://{session.default_bucket()}/{prefix}/output",
        sagemaker_session=session,
        hyperparameters={
            "feature_dim": data.train.images.shape[1],
            "predictor_type": "binary_classifier",
            "binary_classifier_model_selection_criteria": "f_beta",
            "normalize_data": "false",
            "epochs": 40,
        },
    )
    tuner = HyperparameterTuner(
        linear,
        objective_metric_name="validation:binary_f_beta",
        hyperparameter_ranges={
            "wd": ContinuousParameter(1e-7, 1, scaling_type="Logarithmic"),
            "learning_rate": ContinuousParameter(1e-5, 1, scaling_type="Logarithmic"),
            "mini_batch_size": IntegerParameter(100, min(2000, len(data.train.images))),
        },
        max_jobs=given.jobs,
        max_parallel_jobs=2,
        random_seed=given.seed,
    )
    # The name that the SDK makes up has no seconds.
    tuner.fit(channels, job_name=name_from_base("zeros", max_length=32))

    with digits.deployed(tuner, serializer=CSVSerializer(), deserializer=JSONDeserializer()) as predictor:
        one = predictor.predict(data.train.images[0])["predictions"][0]
        answers = [
            answer for batch in digits.batches(data.test.images) for answer in predictor.predict(batch)["predictions"]
        ]
    predicted = np.array([answer["predicted_label"] for answer in answers])
    matrix = digits.confusion(data.test.labels == 0, predicted, 2)
    digits.draw_confusion(matrix, ["not a zero", "zero"], given.pictures / "linear-learner-confusion.png")
    digits.show(
        "linear-learner",
        {
            "seed": given.seed,
            "first_row_score": one["score"],
            "validation_f1": round(digits.final_metric(tuner.best_training_job(), "validation:binary_f_beta"), 4),
            **digits.zeros_found(matrix),
        },
        as_json=given.json,
    )


if __name__ == "__main__":
    main()
