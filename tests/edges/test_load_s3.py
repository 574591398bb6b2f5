"""Archives of a bucket, over real sockets: paid for by who asks, gone on with where the line was cut."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.archives import events_of, lines_of, loaded, packed
from tests.kit.backfill import ask
from tests.kit.loop import run
from vigil.archives import ArchiveUnavailable
from vigil.errors import UsageError
from vigil.load import s3
from vigil.load.places import find, opened, whole

boto3 = pytest.importorskip("boto3")
server = pytest.importorskip("moto.server")

BUCKET = "node-data"
FILES = {f"hourly/20250728/{hour}.lz4": packed(lines_of(events_of(60, 1 + 60 * hour))) for hour in range(3)}
URL = f"s3://{BUCKET}/hourly/20250728"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def bucket(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The client that a load uses, and the bucket with the files; what a machine knows of credentials is not asked."""
    for name, value in {
        "AWS_ENDPOINT_URL_S3": moto,
        "AWS_ACCESS_KEY_ID": "me",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr(s3, "WAIT_SECONDS", 0)
    s3._client.cache_clear()
    client = s3._client()
    client.create_bucket(Bucket=BUCKET)
    for key, body in FILES.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=body)
    client.put_object(Bucket=BUCKET, Key="hourly/202507280", Body=b"another prefix")
    client.put_object(Bucket=BUCKET, Key="hourly/empty/", Body=b"")
    yield client
    while listed := client.list_objects_v2(Bucket=BUCKET).get("Contents"):
        for one in listed:
            client.delete_object(Bucket=BUCKET, Key=one["Key"])
    client.delete_bucket(Bucket=BUCKET)
    client.close()
    s3._client.cache_clear()


def test_a_prefix_is_loaded_and_known_again_by_the_etag(migrated_url: str, bucket: Any) -> None:
    async def scenario() -> None:
        tally = await loaded(migrated_url, URL)
        assert (tally.files_done, tally.inserted, tally.exit_code) == (3, 180, 0)
        second = await loaded(migrated_url, URL)
        assert (second.files_known, second.received) == (3, 0)
        key, body = next(iter(FILES.items()))
        bucket.put_object(Bucket=BUCKET, Key=key, Body=body + packed(lines_of(events_of(9, 900))))
        grown = await loaded(migrated_url, URL)
        assert (grown.files_known, grown.received, grown.inserted) == (2, 9, 9)
        assert await ask(migrated_url, "SELECT count(*) FROM fills") == 189

    run(scenario())


def test_objects_prefixes_and_patterns_are_found_and_every_request_says_who_pays(bucket: Any) -> None:
    asked: list[dict[str, Any]] = []
    bucket.meta.events.register("provide-client-params.s3", lambda params, **_: asked.append(dict(params)))
    names = [f"s3://{BUCKET}/{key}" for key in FILES]
    assert [item.name for item in find([URL])] == names
    assert [item.name for item in find([f"{URL}/"])] == names
    assert [item.name for item in find([names[1]])] == names[1:2]
    assert [item.name for item in find([f"s3://{BUCKET}/hourly/2025072?/[12].lz4"])] == names[1:]
    (item,) = find([names[0]])
    assert b"".join(opened(item)) == next(iter(FILES.values()))
    with whole(item) as file:
        assert file.read() == next(iter(FILES.values()))
    assert len(asked) >= 7
    assert {params["RequestPayer"] for params in asked} == {"requester"}


def test_more_objects_than_a_page_of_the_list_are_found(bucket: Any) -> None:
    for number in range(7):
        bucket.put_object(Bucket=BUCKET, Key=f"many/{number}", Body=b"x")
    bucket.meta.events.register("provide-client-params.s3.ListObjectsV2", lambda params, **_: params.update(MaxKeys=2))
    assert len(find([f"s3://{BUCKET}/many"])) == 7


class Cut:
    """Bodies that break off after some bytes, so many times."""

    def __init__(self, client: Any, monkeypatch: pytest.MonkeyPatch, times: int, after: int) -> None:
        self.ranges: list[str] = []
        self._times, self._after = times, after
        self._get = client.get_object
        monkeypatch.setattr(client, "get_object", self._cut)

    def _cut(self, **how: Any) -> Any:
        self.ranges.append(how["Range"])
        answer = self._get(**how)
        if len(self.ranges) <= self._times:
            body = answer["Body"]
            pieces = body.iter_chunks(self._after)

            def broken(_size: int) -> Iterator[bytes]:
                yield next(pieces)
                body.close()
                raise ConnectionResetError("cut")

            body.iter_chunks = broken
        return answer


def test_a_read_that_is_cut_goes_on_where_it_was(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (item,) = find([f"{URL}/1.lz4"])
    cut = Cut(bucket, monkeypatch, times=9, after=10)
    assert b"".join(opened(item)) == FILES["hourly/20250728/1.lz4"]
    assert cut.ranges == [f"bytes={10 * n}-" for n in range(10)]


def test_a_line_that_stays_cut_is_given_up(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (item,) = find([f"{URL}/1.lz4"])
    asked = []

    def get_object(**how: Any) -> Any:
        asked.append(how)
        raise ConnectionResetError("no line")

    monkeypatch.setattr(bucket, "get_object", get_object)
    with pytest.raises(ArchiveUnavailable, match="does not answer"):
        list(opened(item))
    assert len(asked) == s3.TRIES


def test_an_object_that_changes_while_it_is_read_is_not_mixed_with_its_successor(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (item,) = find([f"{URL}/1.lz4"])
    Cut(bucket, monkeypatch, times=1, after=10)
    reading = opened(item)
    next(reading)
    bucket.put_object(Bucket=BUCKET, Key="hourly/20250728/1.lz4", Body=b"another")
    with pytest.raises(ArchiveUnavailable, match="changed"):
        list(reading)


@pytest.mark.parametrize("url", ["s3://absent-bucket/x", f"s3://{BUCKET}/absent", "s3://", f"s3://{BUCKET}/absent/*"])
def test_what_is_not_there_is_one_sentence(bucket: Any, url: str) -> None:
    with pytest.raises(UsageError):
        find([url])


def test_without_credentials_the_hint_names_the_variables(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3._client.cache_clear()
    with pytest.raises(UsageError, match="no credentials") as caught:
        find([URL])
    assert "AWS_ACCESS_KEY_ID" in caught.value.hint
    s3._client().close()


def test_a_bucket_that_lets_nobody_in_is_one_sentence(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    def denied(*_: Any, **__: Any) -> Any:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "ListObjectsV2")

    monkeypatch.setattr(s3, "_listed", denied)
    with pytest.raises(UsageError, match="does not let us read"):
        find([URL])


def test_an_endpoint_that_nobody_listens_on_may_be_tried_again(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    s3._client.cache_clear()
    with pytest.raises(ArchiveUnavailable, match="does not answer"):
        find([URL])
    s3._client().close()


def test_a_missing_library_is_told_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    s3._client.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(UsageError) as caught:
        find([URL])
    assert "pip install 'vigil-backfill[s3]'" in caught.value.hint
