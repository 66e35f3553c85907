import * as changeCase from 'change-case';

const NAMES = ['camelCase', 'constantCase', 'kebabCase', 'pascalCase', 'sentenceCase', 'trainCase'];
const TEXTS = [
  'foo-bar élan vital',
  'helloÜberWorld2',
  'XMLHttpRequest',
  'straßeÄndern',
  'ДобрыйДень',
];

export function main() {
  return NAMES.map((name) => TEXTS.map((text) => changeCase[name](text)));
}
