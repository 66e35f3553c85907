"""HTTP clients in a sandbox. The test calls `main` with the name of a client."""

import asyncio
import gzip
import http.client
import http.cookiejar
import io
import json
import urllib.error
import urllib.parse
import urllib.request

import httpx
import requests
import urllib3


class Seen:
    """What a client has made of a response."""

    def __init__(self, status, url, body, fields):
        self.status, self.url, self.body = status, str(url), body
        # Pairs, in which a field may be repeated.
        self.fields = [(name.lower(), value) for name, value in fields]

    def all(self, name):
        return [value for known, value in self.fields if known == name]

    def json(self):
        return json.loads(self.body)


def by_urllib(method, url, body=None, headers=(), timeout=None):
    request = urllib.request.Request(url, body, dict(headers), method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout or 60) as response:
            return Seen(response.status, response.url, response.read(), response.headers.items())
    except urllib.error.HTTPError as error:
        return Seen(error.code, url, error.read(), error.headers.items())


def by_http_client(method, url, body=None, headers=(), timeout=None):
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=timeout)
    connection.request(
        method, url[url.index(parts.netloc) + len(parts.netloc) :], body, dict(headers)
    )
    response = connection.getresponse()
    if response.status == 302:
        location = urllib.parse.urljoin(url, response.headers["location"])
        return by_http_client(method, location, body, headers, timeout)
    return Seen(response.status, url, response.read(), response.headers.items())


def by_urllib3(method, url, body=None, headers=(), timeout=None):
    pool = urllib3.PoolManager(
        retries=urllib3.Retry(None, connect=0, read=0, redirect=5), timeout=timeout
    )
    response = pool.request(method, url, body=body, headers=dict(headers))
    return Seen(response.status, url, response.data, response.headers.items())


def by_requests(method, url, body=None, headers=(), timeout=None):
    response = requests.request(method, url, data=body, headers=dict(headers), timeout=timeout)
    return Seen(response.status_code, response.url, response.content, response.raw.headers.items())


def by_httpx(method, url, body=None, headers=(), timeout=None):
    with httpx.Client(follow_redirects=True, timeout=timeout) as client:
        response = client.request(method, url, content=body, headers=dict(headers))
    return Seen(
        response.status_code, response.url, response.content, response.headers.multi_items()
    )


async def by_httpx_async(method, url, body=None, headers=(), timeout=None):
    if hasattr(body, "__next__"):
        body = pieces_later(body)
    async with httpx.AsyncClient(follow_redirects=True, timeout=timeout) as client:
        response = await client.request(method, url, content=body, headers=dict(headers))
    return Seen(
        response.status_code, response.url, response.content, response.headers.multi_items()
    )


async def pieces_later(pieces):
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


CLIENTS = {
    "urllib": by_urllib,
    "http.client": by_http_client,
    "urllib3": by_urllib3,
    "requests": by_requests,
    "httpx": by_httpx,
    "httpx async": by_httpx_async,
}


def send(client, *args, **kwargs):
    seen = CLIENTS[client](*args, **kwargs)
    return asyncio.run(seen) if asyncio.iscoroutine(seen) else seen


def main(client, url):
    """Checks what the host sends and what the client makes of the response."""
    checks = 0
    for method, body, expected in [
        ("GET", None, b""),
        ("POST", b"hello", b"hello"),
        ("PUT", b"", b""),
        ("POST", b"x" * 600_000, b"x" * 600_000),
        ("PUT", iter([b"one ", b"two"]), b"one two"),
        ("DELETE", None, b""),
    ]:
        headers = {"X-Tag": "a", "content-type": "text/plain"}
        seen = send(client, method, f"{url}/mirror?a=1&b=%20", body, headers)
        assert seen.status == 200, (client, method, seen.status, seen.body)
        sent_method, target, fields, received = seen.json()
        fields = dict(fields)
        assert (sent_method, target) == (method, "/mirror?a=1&b=%20"), (client, sent_method, target)
        assert received == expected.decode(), (client, method, received[:100])
        assert fields["x-tag"] == "a", (client, fields)
        if method == "POST":
            assert fields["content-length"] == str(len(expected)), (client, fields)
        assert seen.all("set-cookie") in (["a=1", "b=2"], ["a=1, b=2"]), (client, seen.fields)
        checks += 1
    assert send(client, "HEAD", f"{url}/mirror").body == b""
    assert send(client, "GET", f"{url}/empty").body == b""
    assert send(client, "GET", f"{url}/missing").status == 404
    assert send(client, "GET", f"{url}/redirect").json()[1] == "/mirror"
    assert send(client, "GET", f"{url}/chunked").body == b"piece" * 3
    body = send(client, "GET", f"{url}/gzip", headers={"accept-encoding": "gzip"}).body
    # Some decode it; the others give what the server has sent.
    decodes = client not in ("urllib", "http.client")
    assert (body if decodes else gzip.decompress(body)) == b"zipped", (client, body)
    return checks


def failure(client, url, timeout=None, headers=()):
    """Returns the types and the text of the error that a client raises."""
    try:
        seen = send(client, "GET", url, timeout=timeout, headers=headers)
    except Exception as error:
        names = [f"{kind.__module__}.{kind.__name__}" for kind in type(error).__mro__]
        return [names, str(error)]
    return [[], f"{seen.status}: {seen.body[:100]}"]


def cookies(url):
    """A session keeps cookies, and answers a request for a password."""
    session = requests.Session()
    session.get(f"{url}/mirror")
    by_session = dict(session.get(f"{url}/mirror").json()[2])["cookie"]
    with httpx.Client() as client:
        client.get(f"{url}/mirror")
        by_client = dict(client.get(f"{url}/mirror").json()[2])["cookie"]
    jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
    opener = urllib.request.build_opener(jar)
    opener.open(f"{url}/mirror").read()
    by_opener = dict(json.load(opener.open(f"{url}/mirror"))[2])["cookie"]
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, url, "user", "secret")
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
    secured = [
        opener.open(f"{url}/secured").status,
        requests.get(f"{url}/secured", auth=("user", "secret")).status_code,
        httpx.get(f"{url}/secured", auth=("user", "secret")).status_code,
        requests.get(f"{url}/secured").status_code,
    ]
    return [by_session, by_client, by_opener, secured]


def forms(url):
    """Returns the lengths of forms with a file, as they arrive."""
    file = b"x" * 300_000
    sent = [
        requests.post(f"{url}/mirror", files={"f": ("a.txt", io.BytesIO(file))}).json(),
        httpx.post(f"{url}/mirror", files={"f": ("a.txt", io.BytesIO(file))}).json(),
    ]
    return [file.decode() in body and 'filename="a.txt"' in body for *_, body in sent]


def pieces(client, url):
    """Yields the lines of a response as they arrive."""
    if client == "urllib":
        with urllib.request.urlopen(url) as response:
            yield from (line.decode().strip() for line in response)
    elif client == "requests":
        yield from (line.decode() for line in requests.get(url, stream=True).iter_lines())
    else:
        with httpx.stream("GET", url) as response:
            yield from response.iter_lines()


async def pieces_async(url):
    async with httpx.AsyncClient() as client, client.stream("GET", url) as response:
        async for line in response.aiter_lines():
            yield line


async def concurrent(url, count):
    """Sends requests that the server answers only when all have arrived."""
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(limits=limits) as client:
        answers = await asyncio.gather(*(client.get(f"{url}/{i}") for i in range(count)))
    return [answer.text for answer in answers]


async def cancelled(url):
    """A cancelled request ends, and the client can be used again."""
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=1)) as client:
        for _ in range(3):
            try:
                async with asyncio.timeout(0.01):
                    await client.get(f"{url}/never")
            except TimeoutError:
                pass
        return (await client.get(f"{url}/mirror")).status_code


def unread(url, count):
    """Responses that are not read are closed with their objects."""
    for _ in range(count):
        urllib.request.urlopen(f"{url}/large")
        requests.get(f"{url}/large", stream=True)
    return by_urllib("GET", f"{url}/mirror").status
