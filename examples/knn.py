"""Name digits by their ten nearest neighbours among the train rows, all of which are in the index."""

from __future__ import annotations

import digits
import numpy as np
import sagemaker
from sagemaker import KNN
from sagemaker.amazon.amazon_estimator import RecordSet

NEIGHBOURS = 10


def main() -> None:
    given = digits.options(__doc__).parse_args()
    data = digits.load(given)
    session = sagemaker.Session()
    prefix = f"s3://{session.default_bucket()}/digits/knn"

    knn = KNN(
        role=digits.role(session),
        instance_count=1,
        instance_type="ml.m5.xlarge",
        k=NEIGHBOURS,
        sample_size=len(data.train.images),
        predictor_type="classifier",
        data_location=f"{prefix}/data",
        output_path=f"{prefix}/output",
        sagemaker_session=session,
    )
    train: RecordSet = knn.record_set(data.train.images, data.train.labels.astype("float32"))
    knn.fit(train)

    with digits.deployed(knn) as predictor:
        (one,) = predictor.predict(data.test.images[:1])
        answers = [answer for batch in digits.batches(data.test.images) for answer in predictor.predict(batch)]
    predicted = np.array([answer.label["predicted_label"].float32_tensor.values[0] for answer in answers])
    matrix = digits.confusion(data.test.labels, predicted, 10)
    digits.draw_confusion(matrix, [str(digit) for digit in range(10)], given.pictures / "knn-confusion.png")
    digits.show(
        "knn",
        {
            "first_row_label": one.label["predicted_label"].float32_tensor.values[0],
            "accuracy": round(float(np.trace(matrix) / matrix.sum()), 4),
        },
        as_json=given.json,
    )


if __name__ == "__main__":
    main()
