import slugify from 'slugify';

export function main() {
  slugify.extend({ '☢': 'radioactive' });
  return [
    slugify('Crème Brûlée & Ünïcode', { lower: true }),
    slugify('Đà Nẵng ♥ €5 ☢', '_'),
    slugify('Привет, мир! Straße', { strict: true, locale: 'de' }),
    slugify('e\u0301 cole\u0301', { remove: /[*+~.()'"!:@]/g }),
  ];
}
