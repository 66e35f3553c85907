import { HtmlRenderer, Parser } from 'commonmark';

const TEXT = `# Title with \`code\` and ünïcode

**“Hello”**, *world*—[link](/ü "title") &copy; &auml;

1. one
   > quoted
2. two

[ẞ]: /reference
[SS], <https://example.test/ä>

~~~js
const a = 1 < 2;
~~~
`;

export function main() {
  const html = new HtmlRenderer({ sourcepos: true }).render(
    new Parser({ smart: true }).parse(TEXT),
  );
  return html.split('\n');
}
