import Fuse from 'fuse.js';

const BOOKS = [
  { title: 'The Lock Artist', author: { name: 'Steve Hamilton' } },
  { title: 'Café Müller', author: { name: 'Pina Bausch' } },
  { title: 'HTML5', author: { name: 'Remy Sharp' } },
  { title: 'Right Ho Jeeves', author: { name: 'P.D. Woodhouse' } },
];

export function main() {
  const options = { ignoreDiacritics: true, includeMatches: true, includeScore: true };
  const fuse = new Fuse(BOOKS, { ...options, keys: ['title', 'author.name'] });
  const extended = new Fuse(BOOKS, { useExtendedSearch: true, keys: ['title'] });
  return [
    ['cafe muler', 'jeves', 'steve', 'zzz'].map((text) => fuse.search(text)),
    ["'Lock | ^HTML", '!Right'].map((text) => extended.search(text)),
  ];
}
