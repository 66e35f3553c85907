import * as babel from 'prettier/plugins/babel';
import * as estree from 'prettier/plugins/estree';
import * as markdown from 'prettier/plugins/markdown';
import * as postcss from 'prettier/plugins/postcss';
import * as prettier from 'prettier/standalone';

const SOURCES = {
  babel:
    'const a=1,b={c:[1,2],\nd}\nasync function*f(x){for await(const y of x)yield y?.z??`${y}`}',
  'babel-ts': 'type A<T>={b?:T}|null;const c=(d:A<string>):void=>{}',
  markdown: '* a\n* 漢字 and *b*\n\n|a|漢字|\n|-|-|\n|1|👍|\n\n```js\nlet a=1\n```\n',
  css: 'a{color:RED;b:c}@media(min-width:1px){.d>e{f:calc(1px+2px)}}',
};

export async function main() {
  const plugins = [babel, estree, markdown, postcss];
  const formatted = [];
  for (const [parser, source] of Object.entries(SOURCES)) {
    formatted.push(await prettier.format(source, { parser, plugins, printWidth: 40 }));
  }
  const refused = prettier.format('let = ;', { parser: 'babel', plugins });
  return [formatted, await refused.catch((error) => error.message)];
}
