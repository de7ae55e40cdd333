"""The boto3 client that S3Store uses: from the process's standard AWS settings, for AWS and for other servers."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as boto_errors
from botocore.config import Config

from datalake.errors import CredentialsError, LakePathError


def is_aws(host: str | None) -> bool:
    """Whether an endpoint's host is Amazon's own."""
    return bool(host) and str(host).endswith((".amazonaws.com", ".amazonaws.com.cn"))


def make_client() -> Any:
    """A new client. Raises CredentialsError or LakePathError if the settings are incomplete or wrong."""
    session = boto3.session.Session()
    config = Config(
        signature_version="s3v4",  # presigned URLs would else be signed the old way, which most servers refuse
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=32,
        tcp_keepalive=True,
        retries={"mode": "standard", "total_max_attempts": 1},  # S3Store asks again itself, with its own waits
    )
    region = session.region_name or "us-east-1"
    try:
        client = session.client("s3", region_name=region, config=config)
        if is_aws(urlsplit(client.meta.endpoint_url).hostname):
            return client
        # Other servers are reached as host/bucket: bucket.host needs a wildcard DNS entry that few of them have.
        by_path = config.merge(Config(s3={"addressing_style": "path"}))
        return session.client("s3", region_name=region, config=by_path)
    except (boto_errors.PartialCredentialsError, boto_errors.ProfileNotFound) as error:
        raise CredentialsError(f"the AWS settings are incomplete: {error}") from error
    except ValueError as error:
        raise LakePathError(f"AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is not an address: {error}") from error
