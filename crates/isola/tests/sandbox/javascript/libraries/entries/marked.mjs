import { marked } from 'marked';

const TEXT = `# Hi *there* — ok

- [x] done
- [ ] open, **“bold”**, ~~gone~~

| a | b |
|:--|--:|
| 1 | \`2\` |

Visit www.example.test/ä, a@example.test <b>raw</b>
![image](a.png "title")
`;

export function main() {
  return [marked.parse(TEXT).split('\n'), marked.lexer(TEXT).map(({ type, raw }) => [type, raw])];
}
