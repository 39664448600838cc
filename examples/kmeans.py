"""Sort digits into ten clusters that nobody has named, by K-Means on two instances.

Each instance is given half of the rows. The figures are the mean squared distance to the closest center (of the train
rows as the job reports it, of the test rows as the endpoint answers), and the purity of the test rows: the share that
belongs to the digit that is most frequent in its cluster.
"""

from __future__ import annotations

import digits
import numpy as np
import sagemaker
from sagemaker import KMeans

CLUSTERS = 10


def main() -> None:
    given = digits.options(__doc__).parse_args()
    data = digits.load(given)
    session = sagemaker.Session()
    prefix = f"s3://{session.default_bucket()}/digits/kmeans"

    kmeans = KMeans(
        role=digits.role(session),
        instance_count=2,
        instance_type="ml.m5.xlarge",
        k=CLUSTERS,
        data_location=f"{prefix}/data",
        output_path=f"{prefix}/output",
        sagemaker_session=session,
    )
    # One file for each instance, and a manifest that names them.
    kmeans.fit(kmeans.record_set(data.train.images))

    with digits.deployed(kmeans) as predictor:
        (one,) = predictor.predict(data.train.images[:1])
        answers = [answer for batch in digits.batches(data.test.images) for answer in predictor.predict(batch)]
    clusters = np.array([answer.label["closest_cluster"].float32_tensor.values[0] for answer in answers])
    distances = np.array([answer.label["distance_to_cluster"].float32_tensor.values[0] for answer in answers])
    digits.draw_clusters(data.test.images, clusters, given.pictures / "kmeans-clusters.png")

    counts = [np.bincount(data.test.labels[clusters == cluster]).max() for cluster in np.unique(clusters)]
    digits.show(
        "kmeans",
        {
            "first_row_cluster": one.label["closest_cluster"].float32_tensor.values[0],
            "train_msd": round(digits.final_metric(kmeans.latest_training_job.name, "train:msd"), 3),
            "test_msd": round(float(np.square(distances).mean()), 3),
            "test_purity": round(float(sum(counts) / len(clusters)), 4),
        },
        as_json=given.json,
    )


if __name__ == "__main__":
    main()
