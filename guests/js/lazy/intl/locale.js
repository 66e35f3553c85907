// `Intl.Locale`, with the most likely scripts and regions of the larger languages.

import { canonicalTag, LOCALE_TAG, optionsObject, resolveLocale, tagParts } from './locales.js';

// language: script-region. Languages with more than one script have more entries.
const LIKELY = Object.fromEntries(
  `af:Latn-ZA am:Ethi-ET ar:Arab-EG az:Latn-AZ be:Cyrl-BY bg:Cyrl-BG bn:Beng-BD bs:Latn-BA ca:Latn-ES
  cs:Latn-CZ cy:Latn-GB da:Latn-DK de:Latn-DE el:Grek-GR en:Latn-US eo:Latn-001 es:Latn-ES et:Latn-EE eu:Latn-ES
  fa:Arab-IR fi:Latn-FI fil:Latn-PH fr:Latn-FR ga:Latn-IE gl:Latn-ES gu:Gujr-IN ha:Latn-NG he:Hebr-IL hi:Deva-IN
  hr:Latn-HR hu:Latn-HU hy:Armn-AM id:Latn-ID is:Latn-IS it:Latn-IT ja:Jpan-JP ka:Geor-GE kk:Cyrl-KZ km:Khmr-KH
  kn:Knda-IN ko:Kore-KR ky:Cyrl-KG lo:Laoo-LA lt:Latn-LT lv:Latn-LV mk:Cyrl-MK ml:Mlym-IN mn:Cyrl-MN mr:Deva-IN
  ms:Latn-MY my:Mymr-MM nb:Latn-NO ne:Deva-NP nl:Latn-NL nn:Latn-NO no:Latn-NO or:Orya-IN pa:Guru-IN pl:Latn-PL
  ps:Arab-AF pt:Latn-BR ro:Latn-RO ru:Cyrl-RU si:Sinh-LK sk:Latn-SK sl:Latn-SI so:Latn-SO sq:Latn-AL sr:Cyrl-RS
  sv:Latn-SE sw:Latn-TZ ta:Taml-IN te:Telu-IN th:Thai-TH tr:Latn-TR uk:Cyrl-UA ur:Arab-PK uz:Latn-UZ vi:Latn-VN
  yue:Hant-HK zh:Hans-CN zu:Latn-ZA und:Latn-US zh-TW:Hant-TW zh-HK:Hant-HK zh-MO:Hant-MO zh-Hant:Hant-TW
  sr-Latn:Latn-RS uz-Cyrl:Cyrl-UZ az-Cyrl:Cyrl-AZ pa-PK:Arab-PK pa-Arab:Arab-PK`
    .split(/\s+/)
    .map((entry) => {
      const [key, value] = entry.split(':');
      return [key, value.split('-')];
    }),
);
const RIGHT_TO_LEFT = ['Arab', 'Hebr', 'Syrc', 'Thaa', 'Nkoo', 'Adlm', 'Rohg', 'Mand', 'Samr'];
const KEYWORDS = [
  ['calendar', 'ca'],
  ['collation', 'co'],
  ['firstDayOfWeek', 'fw'],
  ['hourCycle', 'hc'],
  ['caseFirst', 'kf'],
  ['numeric', 'kn'],
  ['numberingSystem', 'nu'],
];
const SHAPES = {
  language: /^(?:[a-z]{2,3}|[a-z]{5,8})$/i,
  script: /^[a-z]{4}$/i,
  region: /^(?:[a-z]{2}|\d{3})$/i,
};

export class Locale {
  #tag;
  #parts;

  constructor(tag, given) {
    if (typeof tag !== 'string' && (typeof tag !== 'object' || tag === null))
      throw new TypeError("First argument to Intl.Locale constructor can't be empty or missing");
    const options = optionsObject(given);
    let canonical = tag[LOCALE_TAG] ?? canonicalTag(String(tag));
    const parts = tagParts(canonical);
    for (const name of ['language', 'script', 'region']) {
      const value = options[name];
      if (value === undefined) continue;
      if (!SHAPES[name].test(String(value)))
        throw new RangeError(`Incorrect locale information provided: ${value}`);
      parts[name] = String(value);
    }
    for (const [name, key] of KEYWORDS) {
      const value = options[name];
      if (value === undefined) continue;
      const text = name === 'numeric' ? String(Boolean(value)) : String(value);
      if (name === 'hourCycle' && !/^h(?:11|12|23|24)$/.test(text))
        throw new RangeError(
          `Value ${text} out of range for Intl.Locale options property hourCycle`,
        );
      if (name === 'caseFirst' && !/^(?:upper|lower|false)$/.test(text))
        throw new RangeError(
          `Value ${text} out of range for Intl.Locale options property caseFirst`,
        );
      if (!/^[\da-z]{3,8}(?:-[\da-z]{3,8})*$/i.test(text))
        throw new RangeError(`Incorrect locale information provided: ${text}`);
      parts.keywords.set(key, text);
    }
    const base = baseOf(parts);
    const others = canonical
      .slice(tagParts(canonical).base.length)
      .replace(/-u(?:-[\da-z]{2,8})+/, '');
    const keys = [...parts.keywords]
      .map(([key, value]) => (value === '' ? `-${key}` : `-${key}-${value}`))
      .join('');
    canonical = canonicalTag(base + (keys === '' ? '' : `-u${keys}`) + others);
    this.#tag = canonical;
    this.#parts = tagParts(canonical);
  }

  get [LOCALE_TAG]() {
    return this.#tag;
  }
  get baseName() {
    return this.#parts.base;
  }
  get language() {
    return this.#parts.language;
  }
  get script() {
    return this.#parts.script;
  }
  get region() {
    return this.#parts.region;
  }
  get calendar() {
    return this.#parts.keywords.get('ca');
  }
  get collation() {
    return this.#parts.keywords.get('co');
  }
  get hourCycle() {
    return this.#parts.keywords.get('hc');
  }
  get caseFirst() {
    return this.#parts.keywords.get('kf');
  }
  get numeric() {
    const value = this.#parts.keywords.get('kn');
    return value === '' || value === 'true';
  }
  get numberingSystem() {
    return this.#parts.keywords.get('nu');
  }

  maximize() {
    const { language, script, region } = this.#parts;
    const likely =
      LIKELY[`${language}-${script}`] ?? LIKELY[`${language}-${region}`] ?? LIKELY[language];
    if (likely === undefined) return new Locale(this);
    return this.#with(
      language === 'und' ? 'en' : language,
      script ?? likely[0],
      region ?? likely[1],
    );
  }

  minimize() {
    const full = this.maximize();
    const { language, script, region } = full;
    for (const [s, r] of [
      [undefined, undefined],
      [undefined, region],
      [script, undefined],
    ]) {
      const shorter = this.#with(language, s, r);
      if (shorter.maximize().baseName === full.baseName) return shorter;
    }
    return full;
  }

  #with(language, script, region) {
    const { variants, base } = this.#parts;
    return new Locale(
      baseOf({ language, script, region, variants }) + this.#tag.slice(base.length),
    );
  }

  getWeekInfo() {
    const week = resolveLocale(this.#tag).data.week ?? {
      firstDay: 1,
      weekend: [6, 7],
      minimalDays: 1,
    };
    return { ...week, weekend: [...week.weekend] };
  }
  getTextInfo() {
    return { direction: RIGHT_TO_LEFT.includes(this.maximize().script) ? 'rtl' : 'ltr' };
  }
  getHourCycles() {
    return [this.hourCycle ?? resolveLocale(this.#tag).data.hourCycle];
  }
  getCalendars() {
    return [this.calendar ?? 'gregory'];
  }
  getNumberingSystems() {
    return [this.numberingSystem ?? 'latn'];
  }
  getCollations() {
    return [this.collation ?? 'default'];
  }

  toString() {
    return this.#tag;
  }
}
Object.defineProperty(Locale.prototype, Symbol.toStringTag, {
  value: 'Intl.Locale',
  configurable: true,
});

const baseOf = ({ language, script, region, variants = [] }) =>
  [language, script, region, ...variants].filter(Boolean).join('-');
