import * as z from 'zod';

const TEXTS = ['😀👍🏽', '👩‍👩‍👧‍👦🇩🇪', '1️⃣', 'a', '', '😀a'];

const Person = z.strictObject({
  name: z.string().trim().min(1),
  email: z.email(),
  born: z.iso.date().transform((text) => new Date(text)),
  role: z.enum(['admin', 'user']).default('user'),
});

export function main() {
  const attempt = (value) => {
    const { data, error } = Person.safeParse(value);
    return error ? z.treeifyError(error) : data;
  };
  return [
    TEXTS.map((text) => z.emoji().safeParse(text).success),
    attempt({ name: ' Ada ', email: 'ada@example.test', born: '1815-12-10' }),
    attempt({ name: '', email: 'ada', born: '2023-02-29', role: 'x', more: 1 }),
    z.toJSONSchema(Person, { io: 'input' }),
    z
      .discriminatedUnion('kind', [
        z.object({ kind: z.literal('a'), n: z.coerce.number() }),
        z.object({ kind: z.literal('b'), at: z.iso.datetime({ offset: true }) }),
      ])
      .array()
      .parse([
        { kind: 'a', n: '5' },
        { kind: 'b', at: '2024-01-01T00:00:00+02:00' },
      ]),
  ];
}
