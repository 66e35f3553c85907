"""An S3 server whose users have one policy each, for the tests of isorun-blobs.

It is the one of moto: written independently of our client and of the server of the other tests,
with the error answers, signatures and policies of AWS. It writes its endpoint and the keys of the
users to stdout as a line of JSON. For each line of stdin, a number of seconds, it makes all
objects that much older and answers with their number. It runs until stdin is closed.
"""

import datetime
import json
import logging
import os
import sys

# Requests before the users exist are not checked.
os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = "1000000"

import boto3
from moto.core.responses import ActionAuthenticatorMixin
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

BUCKET = "bucket"
OPERATIONS = ["PutObject", "GetObject", "ListBucket", "DeleteObject"]


def client_of(endpoint: str, service: str):
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="setup",
        aws_secret_access_key="setup",
    )


def add_user(iam, name: str, operations: list[str]) -> list[str]:
    statement = {
        "Effect": "Allow",
        "Action": [f"s3:{operation}" for operation in operations],
        "Resource": "*",
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="s3", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return [key["AccessKeyId"], key["SecretAccessKey"]]


def make_older(seconds: float) -> int:
    (backend,) = [
        regions["aws"] for regions in s3_backends.values() if BUCKET in regions["aws"].buckets
    ]
    objects = list(backend.buckets[BUCKET].keys.values())
    for stored in objects:
        stored.last_modified -= datetime.timedelta(seconds=seconds)
    return len(objects)


def main() -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client_of(endpoint, "s3").create_bucket(Bucket=BUCKET)
    iam = client_of(endpoint, "iam")
    users = {"all": add_user(iam, "all", OPERATIONS)}
    for operation in OPERATIONS:
        others = [other for other in OPERATIONS if other != operation]
        users[operation] = add_user(iam, f"without-{operation}", others)
    # From now on all requests are checked.
    ActionAuthenticatorMixin.request_count = 1_000_000
    print(json.dumps({"endpoint": endpoint, "users": users}), flush=True)
    for line in sys.stdin:
        print(make_older(float(line)), flush=True)
    server.stop()


main()
