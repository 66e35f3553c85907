import { remark } from 'remark';

const TEXT = '* a\n* b **c**\n\nSetext é\n---\n\n[a]: <b> (c)\n![d][a] `e`  \nf';

/** Parses Markdown to a tree, changes it and writes it. */
export async function main() {
  const shout = () => (tree) => {
    for (const node of tree.children) if (node.type === 'heading') node.depth = 1;
  };
  const file = await remark()
    .use(shout)
    .use({ settings: { bullet: '-', emphasis: '_' } })
    .process(TEXT);
  return [String(file).split('\n'), file.messages.length, remark().parse(TEXT)];
}
