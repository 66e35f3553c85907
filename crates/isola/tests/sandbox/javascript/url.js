'use strict';
// URL and URLSearchParams, from the URL standard.

const cases = {};

const PARSED = [
  // input, base, href
  ['http://example.org', null, 'http://example.org/'],
  ['HTTP://EXAMPLE.org:80/A', null, 'http://example.org/A'],
  ['https://h:443/', null, 'https://h/'],
  ['https://h:80/', null, 'https://h:80/'],
  ['  http://h/a b ', null, 'http://h/a%20b'],
  ['http://h/\ta\n', null, 'http://h/a'],
  ['http://h/a/./b/../c', null, 'http://h/a/c'],
  ['http://h/a/%2e%2E/b', null, 'http://h/b'],
  ['http://h\\a\\b', null, 'http://h/a/b'],
  ['http:h/a', null, 'http://h/a'],
  ['http://h?q#f', null, 'http://h/?q#f'],
  ['http://h/?q=\'"<>', null, 'http://h/?q=%27%22%3C%3E'],
  ['http://h/#a b', null, 'http://h/#a%20b'],
  ['http://h/ü', null, 'http://h/%C3%BC'],
  ['http://127.1/', null, 'http://127.0.0.1/'],
  ['http://0x7f.1/', null, 'http://127.0.0.1/'],
  ['http://2130706433/', null, 'http://127.0.0.1/'],
  ['http://[::1]:8000/', null, 'http://[::1]:8000/'],
  ['http://[2001:DB8:0:0:0:0:0:1]/', null, 'http://[2001:db8::1]/'],
  ['http://u:p@h/', null, 'http://u:p@h/'],
  ['http://u%20x@h/', null, 'http://u%20x@h/'],
  ['b', 'http://h/a/x', 'http://h/a/b'],
  ['/b', 'http://h/a/x', 'http://h/b'],
  ['//g/b', 'http://h/a/x', 'http://g/b'],
  ['?q', 'http://h/a/x?y#z', 'http://h/a/x?q'],
  ['#f', 'http://h/a/x?y#z', 'http://h/a/x?y#f'],
  ['', 'http://h/a/x?y#z', 'http://h/a/x?y'],
  ['..', 'http://h/a/b/c', 'http://h/a/'],
  ['../../../d', 'http://h/a/b/c', 'http://h/d'],
  ['mailto:a@b', null, 'mailto:a@b'],
  ['data:text/plain,x y', null, 'data:text/plain,x y'],
  ['file:///a/../b', null, 'file:///b'],
];
for (const [input, base, href] of PARSED) {
  cases[`parses ${input} on ${base}`] = () => {
    same((base === null ? new URL(input) : new URL(input, base)).href, href);
    same(URL.canParse(input, base ?? undefined), true);
    same(URL.parse(input, base ?? undefined).href, href);
  };
}

const REFUSED = [
  ['', null],
  ['nope', null],
  ['//h/', null],
  ['http://', null],
  ['http://h:99999/', null],
  ['http://h:x/', null],
  ['http://[::1', null],
  ['http://a b/', null],
  ['http://1.2.3.256/', null],
  ['http://h%00/', null],
  ['/x', 'mailto:a@b'],
  ['x', 'nope'],
  ['http://a<b/', null],
];
for (const [input, base] of REFUSED) {
  cases[`refuses ${input} on ${base}`] = () => {
    throws(TypeError, () => (base === null ? new URL(input) : new URL(input, base)));
    same(URL.canParse(input, base ?? undefined), false);
    same(URL.parse(input, base ?? undefined), null);
  };
}

cases['the parts of a URL'] = () => {
  const url = new URL('https://user:pass@sub.example.org:8080/p/a/t/h?query=string#hash');
  same(
    [
      url.protocol,
      url.username,
      url.password,
      url.host,
      url.hostname,
      url.port,
      url.pathname,
      url.search,
      url.hash,
    ],
    [
      'https:',
      'user',
      'pass',
      'sub.example.org:8080',
      'sub.example.org',
      '8080',
      '/p/a/t/h',
      '?query=string',
      '#hash',
    ],
  );
  same(url.origin, 'https://sub.example.org:8080');
  same(String(url), url.href);
  same(JSON.stringify({ url }), `{"url":"${url.href}"}`);
};
const SET = [
  ['protocol', 'http', 'http://h/a?b#c'],
  ['hostname', 'g', 'https://g/a?b#c'],
  ['port', '81', 'https://h:81/a?b#c'],
  ['pathname', 'x y', 'https://h/x%20y?b#c'],
  ['search', 'k=v', 'https://h/a?k=v#c'],
  ['search', '', 'https://h/a#c'],
  ['hash', '', 'https://h/a?b'],
  ['username', 'u', 'https://u@h/a?b#c'],
  ['password', 'p', 'https://:p@h/a?b#c'],
  ['host', 'g:1', 'https://g:1/a?b#c'],
  ['href', 'http://x', 'http://x/'],
];
for (const [member, value, href] of SET) {
  cases[`sets ${member} to ${value}`] = () => {
    const url = new URL('https://h/a?b#c');
    url[member] = value;
    same(url.href, href);
  };
}
// The standard requires a TypeError here; the engine silently ignores it.
cases['an invalid href changes nothing'] = () => {
  const url = new URL('http://h');
  url.href = 'nope';
  same(url.href, 'http://h/');
};
cases['search and searchParams are one'] = () => {
  const url = new URL('http://h/?a=1');
  url.searchParams.append('b', '2 3');
  same(url.href, 'http://h/?a=1&b=2+3');
  url.search = '?c=4';
  same([...url.searchParams], [['c', '4']]);
};

const PARAMS = [
  [
    'a=1&b=two',
    [
      ['a', '1'],
      ['b', 'two'],
    ],
  ],
  ['?a=1', [['a', '1']]],
  ['a+b=c%20d', [['a b', 'c d']]],
  ['a', [['a', '']]],
  ['=x', [['', 'x']]],
  ['a=b=c', [['a', 'b=c']]],
  ['&&a=1&', [['a', '1']]],
  ['%C3%BC=%zz', [['ü', '%zz']]],
  ['', []],
];
for (const [input, pairs] of PARAMS) {
  cases[`reads the parameters ${input}`] = () => same([...new URLSearchParams(input)], pairs);
}
cases['parameters of a record, of pairs, of others'] = () => {
  same(new URLSearchParams({ a: '1', b: 'two' }).toString(), 'a=1&b=two');
  same(
    new URLSearchParams([
      ['x', 1],
      ['x', 2],
    ]).toString(),
    'x=1&x=2',
  );
  same(new URLSearchParams(new URLSearchParams('k=v')).toString(), 'k=v');
  same(new URLSearchParams(new Map([['m', 'n']])).toString(), 'm=n');
  same(new URLSearchParams().toString(), '');
};
cases['pairs that are none are refused'] = () => {
  throws(TypeError, () => new URLSearchParams([['a']]));
  throws(TypeError, () => new URLSearchParams([['a', 'b', 'c']]));
};
cases['the methods of parameters'] = () => {
  const params = new URLSearchParams('a=1&b=2&a=3');
  same(
    [params.get('a'), params.getAll('a'), params.get('z'), params.has('b'), params.size],
    ['1', ['1', '3'], null, true, 3],
  );
  params.set('a', '9');
  params.append('c', ' &=+');
  params.delete('b');
  same(params.toString(), 'a=9&c=+%26%3D%2B');
  params.append('b', 'x');
  params.sort();
  same([...params.keys()], ['a', 'b', 'c']);
  same([...params.values()], ['9', 'x', ' &=+']);
  const seen = [];
  params.forEach((value, name) => seen.push(`${name}:${value}`));
  same(seen, ['a:9', 'b:x', 'c: &=+']);
  same([...params.entries()], [...params]);
};
cases['parameters are encoded as forms are'] = () => {
  same(
    new URLSearchParams({ k: "a*-._~'()!é\u{1f600}" }).toString(),
    'k=a*-._%7E%27%28%29%21%C3%A9%F0%9F%98%80',
  );
};
