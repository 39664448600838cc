"""Tell the zeros from the other digits by Factorization Machines, on sparse rows: most pixels are blank.

Of factors_lr 0.0003, 0.001 and 0.003, mini_batch_size 200 and 1000, and epochs 5, 10 and 20, those here had the least
cross-entropy on the validation rows; the test rows are asked of the endpoint alone.
"""

from __future__ import annotations

import io
from typing import Any

import digits
import numpy as np
import sagemaker
from sagemaker.amazon.common import write_spmatrix_to_sparse_tensor
from sagemaker.deserializers import JSONDeserializer
from sagemaker.estimator import Estimator
from sagemaker.serializers import JSONSerializer
from scipy.sparse import csr_matrix


def upload(session: sagemaker.Session, part: digits.Part, key: str) -> str:
    """Convert rows to sparse recordIO-protobuf, the label being 1 for a zero; put them into the session's bucket."""
    converted = io.BytesIO()
    write_spmatrix_to_sparse_tensor(converted, csr_matrix(part.images), (part.labels == 0).astype("float32"))
    converted.seek(0)
    bucket = session.default_bucket()
    session.boto_session.client("s3").upload_fileobj(converted, bucket, key)
    return f"s3://{bucket}/{key}"


def request(images: np.ndarray) -> dict[str, Any]:
    """The rows as a request: of each row the pixels that are not blank."""
    instances = []
    for image in images:
        keys = np.flatnonzero(image)
        features = {"keys": keys.tolist(), "shape": [len(image)], "values": image[keys].tolist()}
        instances.append({"data": {"features": features}})
    return {"instances": instances}


def main() -> None:
    given = digits.options(__doc__).parse_args()
    data = digits.load(given)
    session = sagemaker.Session()
    prefix = "digits/factorization-machines"
    channels = {
        "train": upload(session, data.train, f"{prefix}/train/rows.pbr"),
        # The algorithm's only other channel is called test; the test rows stay here.
        "test": upload(session, data.validation, f"{prefix}/validation/rows.pbr"),
    }

    machines = Estimator(
        image_uri=sagemaker.image_uris.retrieve("factorization-machines", session.boto_region_name),
        role=digits.role(session),
        instance_count=1,
        instance_type="ml.m5.xlarge",
        output_path=f"s3://{session.default_bucket()}/{prefix}/output",
        sagemaker_session=session,
        hyperparameters={
            "feature_dim": data.train.images.shape[1],
            "predictor_type": "binary_classifier",
            "num_factors": 10,
            "mini_batch_size": 200,
            "epochs": 20,
            "factors_lr": 0.0003,
        },
    )
    machines.fit(channels)

    with digits.deployed(machines, serializer=JSONSerializer(), deserializer=JSONDeserializer()) as predictor:
        one = predictor.predict(request(data.train.images[:1]))["predictions"][0]
        answers = [
            answer
            for batch in digits.batches(data.test.images)
            for answer in predictor.predict(request(batch))["predictions"]
        ]
    predicted = np.array([answer["predicted_label"] for answer in answers])
    matrix = digits.confusion(data.test.labels == 0, predicted, 2)
    digits.draw_confusion(matrix, ["not a zero", "zero"], given.pictures / "factorization-machines-confusion.png")
    digits.show(
        "factorization-machines",
        {"first_row_score": one["score"], **digits.zeros_found(matrix)},
        as_json=given.json,
    )


if __name__ == "__main__":
    main()
