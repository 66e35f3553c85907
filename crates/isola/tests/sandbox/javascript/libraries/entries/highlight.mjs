import highlight from 'highlight.js';

const SOURCES = {
  javascript: 'const a = /\\p{L}/u; // ünïcode\nclass B { #c = `${a}`; }',
  typescript: 'interface A<T> { b?: T }\nenum C { D = 1 }',
  python: '@a\nasync def f(x: int) -> str:\n    return f"{x!r:>10}"',
  rust: 'fn main<\'a>(x: &\'a str) -> Option<u8> { println!("{x}"); None }',
  json: '{ "a": [1, true, null] }',
  css: '@media (min-width: 1px) { .a > #b::before { color: #fff } }',
  xml: '<p class="a">&amp;<script>let a = 1;</script></p>',
  sql: "SELECT count(*) FROM t WHERE a = 'b'",
  bash: 'for a in *; do echo "$a" | wc -l; done',
};

export function main() {
  const { language, relevance, value } = highlight.highlightAuto(SOURCES.python);
  return [
    Object.entries(SOURCES).map(
      ([language, source]) => highlight.highlight(source, { language }).value,
    ),
    [language, relevance, value],
    highlight.listLanguages().length,
  ];
}
