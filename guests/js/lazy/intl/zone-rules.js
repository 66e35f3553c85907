// The yearly rules of a time zone, such as "the last Sunday of March, at 2:00".

const DAY = 86400;

/** Returns the seconds since 1970 of a rule in a year; `offset` is that before it. */
export function ruleTime([month, weekday, nth, seconds], year, offset) {
  // `nth` 0 is the last such day of the month.
  let at;
  if (nth === 0) {
    const last = new Date(Date.UTC(year, month + 1, 0));
    at = last.getTime() / 1000 - ((last.getUTCDay() - weekday + 7) % 7) * DAY;
  } else {
    const first = new Date(Date.UTC(year, month, 1));
    at = first.getTime() / 1000 + (((weekday - first.getUTCDay() + 7) % 7) + 7 * (nth - 1)) * DAY;
  }
  return at + seconds - offset;
}

/** Returns the rules that may describe a transition. */
export function rulesOf(time, offset) {
  const local = new Date((time + offset) * 1000);
  const [month, weekday, day] = [local.getUTCMonth(), local.getUTCDay(), local.getUTCDate()];
  const seconds = (time + offset) % DAY;
  const rules = [[month, weekday, Math.ceil(day / 7), seconds]];
  const days = new Date(Date.UTC(local.getUTCFullYear(), month + 1, 0)).getUTCDate();
  if (day + 7 > days) rules.unshift([month, weekday, 0, seconds]);
  return rules;
}
