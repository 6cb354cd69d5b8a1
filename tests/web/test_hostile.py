"""What hostile requests get: refused, or their texts shown as texts; the server goes on, and reaches nothing else."""

import contextlib
import http.client
import io
import json
import select
import signal
import socket
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded

from pipeline.web import filters
from pipeline.web.params import LONGEST
from tests.web.conftest import SCRIPT, Served, picture, serving

MOST = 20_000_000


@pytest.fixture(autouse=True)
def goes_on(site: Served) -> Iterator[None]:
    yield
    assert site.get("/healthz").json() == {"ok": True}


def asked(site: Served, method: str = "GET", path: str = "/api/archive", **headers: str) -> tuple[int, dict[str, str]]:
    """A request just as it stands here: clients mend paths and headers."""
    connection = http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}


# --- paths and addresses ----------------------------------------------------------------------------------------------


def test_no_parameter_reaches_a_file_or_the_network(site: Served, tmp_path: Path) -> None:
    file = tmp_path / "secret.jpg"
    file.write_bytes(picture(1))
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        url = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/secret.jpg"
        up = "/".join([".."] * 20)
        for name in (
            str(file),
            f"file://{file}",
            f"{up}{file}",
            url,
            "s3://bucket/x",
            f"{up}/etc/passwd",
            "-",
            "\\\\x\\y",
        ):
            assert site.get("/api/search", image=name).status_code == 400
            for parameter in LONGEST.keys() - {"image"} | {"k", "scale", "mode", "collapse", "after", "before"}:
                answer = site.get("/api/search", **({"q": "a"} | {parameter: name}))
                assert answer.status_code in (200, 400) and "root:" not in answer.text
        elsewhere.settimeout(0)
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


@pytest.mark.parametrize("place", ["/thumbnails/", "/pictures/", "/api/photos/", "/static/", "/"])
def test_no_path_leads_out(site: Served, place: str) -> None:
    for up in ("../" * 12, "%2e%2e%2f" * 12, "..%5c" * 12, "%252e%252e%252f" * 12, "/" * 3, "....//" * 12):
        for end in ("etc/passwd", "etc/passwd.jpg", "etc/passwd%00.jpg"):
            status, _ = asked(site, path=place + up + end)
            assert status in (404, 405, 422)


# --- pictures ---------------------------------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    """A black PNG of one bit a pixel: a few kilobytes, whatever its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack("!I", len(data)) + kind + data + struct.pack("!I", zlib.crc32(kind + data))

    packer, rows = zlib.compressobj(9), b"\0" * (1 + (width + 7) // 8)
    pixels = b"".join([packer.compress(rows) for _ in range(height)] + [packer.flush()])
    header = struct.pack("!IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', 415),
        (b"<!doctype html><script>alert(1)</script>", 415),
        (b"%PDF-1.7 and so on, for as long as a picture would be", 415),
        (b"GIF89a<script>alert(1)</script>" + b" " * 40, 415),
        (b"", 422),
        (picture(1)[:-200], 422),
    ],
)
def test_what_is_no_picture(site: Served, data: bytes, status: int) -> None:
    answer = site.drop(data)
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/json" and "\n" not in answer.json()["error"]


def test_a_decompression_bomb(site: Served) -> None:
    bomb = png(20_000, 20_000)
    assert len(bomb) < 200_000
    assert site.drop(bomb).status_code == 413
    assert site.drop(png(2_000, 1_000)).status_code == 200


def test_an_upload_that_says_how_long_it_is(site: Served) -> None:
    status, _ = asked(site, "POST", "/api/pictures", Content_Length="100000000", Content_Type="multipart/form-data")
    assert status == 413  # before a byte of it was sent
    assert asked(site, "POST", "/api/pictures", Content_Length="-1")[0] in (400, 413)


def test_an_upload_that_does_not(site: Served) -> None:
    place = urlsplit(site.url)
    head = (
        f"POST /api/pictures HTTP/1.1\r\nHost: {place.netloc}\r\nTransfer-Encoding: chunked\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    sent = 0
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(head.encode() + b"%x\r\n%b\r\n" % (len(form), form))
        while sent < 100_000_000 and not select.select([connection], [], [], 0.01)[0]:
            connection.sendall(b"%x\r\n%b\r\n" % (1_000_000, bytes(1_000_000)))
            sent += 1_000_000
        assert connection.recv(12) == b"HTTP/1.1 413"
    assert MOST - 1_000_000 <= sent < 3 * MOST  # a refused body is read on for a while, or its answer is lost


def test_a_form_without_a_picture(site: Served) -> None:
    for wrong in ({"files": {"other": b"x"}}, {"data": {"file": "x"}}, {"data": b"x"}, {"json": {"file": 1}}):
        assert requests.post(f"{site.url}/api/pictures", timeout=60, **wrong).status_code == 422  # type: ignore[arg-type]


# --- SQL --------------------------------------------------------------------------------------------------------------

ENDLESS = [
    "(SELECT count(*) FROM range(1000000000000)) > 0",
    "(SELECT count(*) FROM range(100000) a, range(100000) b, range(100000) c) > 0",
    "(WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t) > 0",
    "levenshtein(repeat('a', 1000000), repeat('b', 1000000)) > 0",  # which DuckDB cannot interrupt
    "len(repeat('a', 2000000000)) + len(repeat('b', 2000000000)) > 0",
    "len(list_sort(range(100000000))) > 0",
]
OUTSIDE = [
    "EXISTS (FROM read_csv('/etc/passwd'))",
    "(SELECT content FROM read_text('/etc/passwd')) > ''",
    "EXISTS (FROM read_blob('/etc/passwd'))",
    "EXISTS (FROM '/etc/passwd')",
    "EXISTS (FROM glob('/etc/*'))",
    "EXISTS (FROM read_json('http://127.0.0.1:9/x'))",
    "EXISTS (FROM sniff_csv('/etc/passwd'))",
    "getenv('HOME') > ''",
    "true; COPY photos TO '{tmp}/out.csv'",
    "(COPY photos TO '{tmp}/out.csv')",
    "true); ATTACH '{tmp}/out.db'; --",
    "true; INSTALL httpfs; LOAD httpfs",
    "true; SET enable_external_access = true",
    "query('COPY photos TO ''{tmp}/out.csv''') > 0",
    "current_setting('allowed_paths')[1] > ''",
    "system.main.current_setting('allowed_paths')[1] > ''",
    'EXISTS (FROM "duckdb_settings"())',
    "EXISTS (FROM pg_catalog.pg_settings)",
    "EXISTS (FROM query('FROM duckdb_' || 'settings()'))",
    "EXISTS (FROM duckdb_secrets())",
    "EXISTS (FROM read_text('photos.parquet'))",
    "row_id::DATE IS NULL",
    "(" * 1500 + "true" + ")" * 1500,
]


def test_sql_that_never_ends(site: Served) -> None:
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(site.get, "/api/search", q="a", where=where) for where in ENDLESS]
        assert site.search(q="a boat")["hits"] and not all(one.done() for one in asked)  # meanwhile
    endless = [one.result() for one in asked]
    assert [answer.status_code for answer in endless] == [400] * len(ENDLESS)
    assert sum("was ended" in answer.json()["error"] for answer in endless) >= 4  # others run out of memory before
    assert site.ids(q="a", where="row_id = 3") == ["flickr:3"]


@pytest.mark.parametrize("where", OUTSIDE)
def test_sql_that_reaches_out(site: Served, where: str, tmp_path: Path) -> None:
    answer = site.get("/api/search", q="a", where=where.replace("{tmp}", str(tmp_path)))
    assert answer.status_code == 400 and "root:" not in answer.text
    assert str(Path(site.service.archive.url).parent) not in answer.text
    assert not list(tmp_path.iterdir())


def test_names_of_settings_may_stand_in_texts(site: Served) -> None:
    text = 'current_setting(x), "function_name":"query"'
    assert site.ids(q="a", where=f"title != '{text}' AND row_id = 3") == ["flickr:3"]


def test_no_answer_says_where_the_archive_lies(site: Served) -> None:
    answers = [
        site.get("/api/search", q="a", collapse="1"),
        site.get("/", q="a", collapse="1"),
        site.get("/api/search", q="a"),
        site.get("/download.json", q="a"),
        site.get("/api/archive"),
    ]
    assert [answer.status_code for answer in answers] == [400, 200, 200, 200, 200]
    assert not any(str(Path(site.service.archive.url).parent) in answer.text for answer in answers)


def test_a_filter_that_nobody_waits_for_ends(site: Served) -> None:
    child = filters._Child(site.service.builds[0].folders)
    process = child._process
    assert process.stdin
    asked = json.dumps({"wheres": ["sleep_ms(600000) IS NULL"], "deadline": 0.5}).encode()
    process.stdin.write(filters.LENGTH.pack(len(asked)) + asked)
    process.stdin.flush()
    assert process.wait(60) == -signal.SIGALRM
    assert child.is_gone()
    child.end()


def test_a_filter_that_was_killed_at_rest(site: Served) -> None:
    with serving(site.service.archive.url) as served:
        assert served.ids(q="a", where="row_id = 3") == ["flickr:3"]
        idle = served.service._filters._idle
        for child in [idle.get() for _ in range(idle.qsize())]:
            if child:
                child._process.kill()
                child._process.wait()
            idle.put(child)
        assert served.ids(q="a", where="row_id = 4") == ["flickr:4"]


def test_texts_in_filters_are_no_sql(site: Served) -> None:
    for text in ("' OR '1'='1", "'; DROP TABLE photos; --", "\\' OR true --", "%"):
        assert site.ids(q="a", tag=text) == []
        assert site.ids(q="a", license=text) == []
    assert len(site.ids(q="a", tag="odd", k=100)) == 15


# --- texts of others, and who may ask ---------------------------------------------------------------------------------


def test_script_in_a_title_is_text(site: Served) -> None:
    answer = site.get("/api/search", q="a", where="row_id = 7")
    [hit] = answer.json()["hits"]
    assert hit["title"] == SCRIPT
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_every_answer_is_guarded(site: Served) -> None:
    for path in ("/api/archive", "/thumbnails/1.jpg", "/no/such/path", "/api/search?k=x"):
        headers = asked(site, path=path)[1]
        assert headers["content-security-policy"].startswith("default-src 'none'; img-src 'self' data: blob:;")
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "private" in headers["cache-control"]
        assert not {"access-control-allow-origin", "server"} & headers.keys()


def test_another_name_that_leads_here(site: Served) -> None:
    own = urlsplit(site.url).port
    for host, status in {"evil.example": 421, f"evil.example:{own}": 421, "[": 421, f"localhost:{own}": 200}.items():
        assert asked(site, Host=host)[0] == status


def test_pages_of_others_send_nothing(site: Served) -> None:
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert site.drop(picture(1), headers=headers).status_code == 403
    assert site.drop(picture(1), headers={"Origin": site.url, "Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_pages_of_others_ask_nothing(site: Served) -> None:
    for place in ("cross-site", "same-site"):
        link = {"Sec_Fetch_Site": place, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
        for path, headers, status in (
            ("/?q=a", link, 200),
            ("/photo/flickr:3", link, 200),
            ("/?q=a", link | {"Sec_Fetch_Dest": "iframe"}, 403),
            ("/?q=a", link | {"Sec_Fetch_Mode": "no-cors"}, 403),
            ("/api/search?q=a", link, 403),
            ("/results?q=a", link, 403),
            ("/thumbnails/3.jpg", {"Sec_Fetch_Site": place, "Sec_Fetch_Mode": "no-cors"}, 403),
        ):
            assert asked(site, path=path, **headers)[0] == status
    assert asked(site, path="/api/search?q=a", Sec_Fetch_Site="same-origin")[0] == 200


def test_the_token(site: Served) -> None:
    with serving(site.service.archive.url, token="geheim ü") as served:
        assert served.get("/api/archive").status_code == 401
        bearer = {"Authorization": "Bearer geheim ü".encode().decode("latin-1")}
        for headers, status in (
            (bearer, 200),
            ({"Authorization": "Bearer geheim"}, 401),
            ({"Cookie": "tintype=x"}, 401),
        ):
            assert requests.get(served.url + "/api/archive", headers=headers, timeout=60).status_code == status  # type: ignore[arg-type]
        assert served.get("/api/archive", token="wrong").status_code == 401
        with requests.Session() as session:
            welcome = session.get(
                served.url + "//evil.example/x?q=a&token=geheim+%C3%BC&k=3", allow_redirects=False, timeout=60
            )
            assert welcome.status_code == 303 and welcome.headers["Location"] == "/evil.example/x?q=a&k=3"
            assert {"HttpOnly", "SameSite=Strict"} <= {
                part.strip() for part in welcome.headers["Set-Cookie"].split(";")
            }
            assert session.get(served.url + "/api/archive", timeout=60).status_code == 200
            [cookie] = session.cookies
        assert cookie.name == f"tintype-{urlsplit(served.url).port}"  # another server's on this host is another
        for odd in ('prefs={"a":1}; ', "x y=1; foo[]=2; ", "tintype=x; ", "ä=ö; "):
            given = {"Cookie": f"{odd}{cookie.name}={cookie.value}".encode().decode("latin-1")}
            assert requests.get(served.url + "/api/archive", headers=given, timeout=60).status_code == 200


# --- too many, too slow, too strange ----------------------------------------------------------------------------------


def test_more_than_may_wait(site: Served) -> None:
    with serving(site.service.archive.url, waiting=1) as served, ThreadPoolExecutor(20) as pool:
        # The first loads the model, the next waits for it.
        answers = list(pool.map(lambda n: served.get("/api/search", q=f"{n}"), range(20)))
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 503}
        assert answers[statuses.index(503)].headers["Retry-After"] == "1"
        assert served.search(q="again")["hits"]


def test_more_uploads_than_may_come(site: Served) -> None:
    with serving(site.service.archive.url, uploads=1) as served:
        place = urlsplit(served.url)
        head = "POST /api/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        with socket.create_connection((place.hostname, place.port)) as connection:
            connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode())
            connection.sendall(b"--x\r\n")
            while (answer := served.drop(picture(1))).status_code == 200:  # until the first has come
                pass
            assert answer.status_code == 503 and answer.headers["Retry-After"] == "1"
            assert served.drop(bytes(MOST + 200_000)).status_code == 413
            assert served.search(q="a")["hits"]
        while (answer := served.drop(picture(1))).status_code == 503:
            pass
        assert answer.status_code == 200


def test_more_filters_than_may_wait(site: Served) -> None:
    with serving(site.service.archive.url, filters=1, filter_s=1.0) as served, ThreadPoolExecutor(4) as pool:
        wheres = [f"sleep_ms({n}) IS NULL" for n in range(600_000, 600_004)]
        answers = pool.map(lambda where: served.get("/api/search", q="a", where=where), wheres)
        assert {answer.status_code for answer in answers} == {400, 503}
        assert served.ids(q="a", where="row_id = 3") == ["flickr:3"]


def test_more_connections_than_are_held(site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.web.server.CONNECTIONS", 2)
    with serving(site.service.archive.url) as served, contextlib.ExitStack() as held:
        place = urlsplit(served.url)
        ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for status in (b"HTTP/1.1 200", b"HTTP/1.1 200", b""):
            connection = held.enter_context(socket.create_connection((place.hostname, place.port), timeout=30))
            try:
                connection.sendall(ask)
                assert connection.recv(12) == status
            except ConnectionError:
                assert status == b""


def test_what_takes_too_long(site: Served) -> None:
    with serving(site.service.archive.url, patience_s=0.01) as served:
        assert served.get("/api/search", q="a").status_code == 504


def test_a_request_that_never_comes(site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.web.server.HEAD_S", 0.3)
    place = urlsplit(site.url)
    for sent in (b"", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: "):
        with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
            connection.sendall(sent)
            assert connection.recv(100) == b""  # it was closed


def test_no_request_that_the_description_allows_is_a_fault(site: Served) -> None:
    told = io.StringIO(json.dumps(site.get("/api/openapi.json").json()))
    schema = schemathesis.openapi.from_file(told)
    schema.config.update(base_url=site.url)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 7
    for operation in operations:

        @seeded(7)
        @settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            assert case.call().status_code < 500

        ask()
