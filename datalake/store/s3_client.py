"""The boto3 client that S3Store uses: from the process's standard AWS settings, for AWS and for other servers."""

from __future__ import annotations

import functools
import os
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.loaders
import botocore.session
from botocore import exceptions as boto_errors
from botocore.config import Config

from datalake.errors import CredentialsError, LakePathError

DEFAULT_REGION = "us-east-1"
_CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")


def is_aws(host: str | None) -> bool:
    """Whether an endpoint's host is Amazon's own."""
    return bool(host) and str(host).endswith((".amazonaws.com", ".amazonaws.com.cn"))


def make_client(region: str | None = None) -> Any:
    """A new client for ``region`` (default: that of the settings, else us-east-1), with newly found credentials.

    Raises CredentialsError or LakePathError if the settings are incomplete or wrong.
    """
    config = Config(
        signature_version="s3v4",  # presigned URLs would else be signed the old way, which most servers refuse
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=32,
        tcp_keepalive=True,
        retries={"mode": "standard", "total_max_attempts": 1},  # S3Store asks again itself, with its own waits
    )
    try:
        settings = botocore.session.get_session()
        session = boto3.session.Session(botocore_session=settings)
        settings.register_component("data_loader", _data_files(settings.get_config_variable("data_path")))
        region = region or session.region_name or DEFAULT_REGION
        client = session.client("s3", region_name=region, config=config)
        if is_aws(urlsplit(client.meta.endpoint_url).hostname):
            return client
        return session.client("s3", region_name=region, config=config.merge(_for_others(settings.get_scoped_config())))
    except (boto_errors.PartialCredentialsError, boto_errors.ProfileNotFound) as error:
        raise CredentialsError(f"the AWS settings are incomplete: {error}") from error
    except (boto_errors.BotoCoreError, OSError) as error:  # such as a credential_process that fails, or is not there
        reason = " ".join(str(error).split())
        raise CredentialsError(
            f"the credentials could not be had ({reason}): correct the profile, role or program in the AWS "
            "configuration that they come from, or log in again"
        ) from error
    except ValueError as error:
        raise LakePathError(f"AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL is not an address: {error}") from error


@functools.lru_cache(maxsize=4)
def _data_files(folders: str | None) -> botocore.loaders.Loader:
    """Return the process's reader of botocore's description of S3, with more ``folders`` (AWS_DATA_PATH) to search.

    The description is a megabyte and more of JSON, and all that a client takes long for: 0.1 s. Sessions are new each
    time, since settings may have changed; what they share is read only.
    """
    return botocore.loaders.create_loader(folders)


def _for_others(profile: dict[str, Any]) -> Config:
    """What servers other than Amazon's understand.

    They are reached as host/bucket: bucket.host needs a wildcard DNS entry that few of them have. Many refuse uploads
    in aws-chunked encoding or with a checksum in a header of its own; without one the signature covers the SHA-256 of
    what is sent, so a body that changes on its way is refused all the same. Who sets the standard variables has a say.
    """
    chosen = {name for name in _CHECKSUMS if f"AWS_{name.upper()}" in os.environ or name in profile}
    plain = {name: "when_required" for name in _CHECKSUMS if name not in chosen}
    return Config(s3={"addressing_style": "path"}, **plain)
