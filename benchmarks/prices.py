"""What AWS asks for what a stack uses besides SageMaker."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prices:
    """Dollars, list prices of us-east-1 as AWS's pricing pages gave them in 2025, without free tiers."""

    put: float = 0.005 / 1000
    """S3 Standard: PUT, COPY, POST, LIST."""
    get: float = 0.0004 / 1000
    """S3 Standard: GET, HEAD and all others; DELETE is free."""
    stored_gb_month: float = 0.023
    lambda_gb_second: float = 0.0000166667
    """On x86; a start is billed as well (since August 2025)."""
    lambda_request: float = 0.20 / 10**6
    transition: float = 0.025 / 1000
    """Step Functions, Standard workflows."""
    write_unit: float = 0.625 / 10**6
    """DynamoDB on demand: a write of up to 1 KB; two of them in a transaction."""
    read_unit: float = 0.125 / 10**6
    """DynamoDB on demand: a strongly consistent read of up to 4 KB."""
    event: float = 1.00 / 10**6
    """EventBridge: custom events, and S3's. Those of SageMaker and Step Functions are free."""
    schedule: float = 1.00 / 10**6
    """An invocation by EventBridge Scheduler."""
    message: float = 0.50 / 10**6 + 2.00 / 10**5
    """SNS: a message published, and sent as an e-mail."""
    log_gb: float = 0.50
    """CloudWatch Logs: taken in."""
    trace: float = 5.00 / 10**6
    """X-Ray: recorded."""
    alarm_month: float = 0.10
    metric_month: float = 0.30
    key_month: float = 1.00
    key_request: float = 0.03 / 10**4


PRICES = Prices()
