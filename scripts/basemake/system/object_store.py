"""Clients of object stores that speak S3."""

from typing import Any

GOOGLE = "https://storage.googleapis.com"  # where Google's store speaks S3


def s3_client(endpoint: str | None, connections: int) -> Any:
    """Return boto3's client of S3, or of the service at `endpoint`, for threads to share.

    Keys come from where boto3 finds them: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile,
    or the machine's role. Raises botocore's BotoCoreError, or ValueError for an endpoint that is no
    address.
    """
    import boto3  # here, as it takes long and few processes need it
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        config=Config(
            # Other services refuse the checksums that boto3 would add; both users send or keep
            # digests of their own.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=connections,
            retries={"mode": "standard", "max_attempts": 5},
        ),
    )
