import { micromark } from 'micromark';

const TEXT = `## H *é*—*x*

**“ä”**b _a_b **日本**語

* one
* two

[ref]: <javascript:alert(1)> 'title'
[ref] \\* &#x1F600; &nbsp;

<div>raw</div>
`;

export function main() {
  return [micromark(TEXT).split('\n'), micromark(TEXT, { allowDangerousHtml: true }).split('\n')];
}
