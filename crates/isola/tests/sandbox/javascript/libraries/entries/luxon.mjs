import { DateTime, Duration, IANAZone, Info, Interval, Settings } from 'luxon';

Settings.throwOnInvalid = true;

/** Formats, parses and calculates in zones, with `Intl`. */
export function main() {
  const tokyo = DateTime.fromISO('2024-07-01T12:00:00Z', { zone: 'Asia/Tokyo' });
  const winter = DateTime.fromISO('2024-03-10T01:30', { zone: 'America/New_York' });
  const parsed = DateTime.fromFormat('May 4 2024 13:07', 'LLLL d yyyy HH:mm', {
    zone: 'Europe/Paris',
  });
  return [
    tokyo.toISO(),
    tokyo.toLocaleString(DateTime.DATE_HUGE),
    tokyo.toLocaleString(DateTime.DATETIME_SHORT, { locale: 'en-GB' }),
    tokyo.toFormat('cccc, dd LLL yyyy, HH:mm:ss ZZZZ z'),
    winter.plus({ hours: 1 }).toISO(),
    winter.endOf('day').toISO(),
    parsed.toISO(),
    parsed.setZone('Asia/Kathmandu').toISO(),
    parsed.diff(tokyo, ['months', 'days', 'hours']).toObject(),
    Interval.after(parsed, { days: 3 }).splitBy({ days: 1 }).map(String),
    Duration.fromISO('P1Y2M3DT4H5M').toHuman(),
    tokyo.toRelative({ base: tokyo.plus({ days: 3 }) }),
    [Info.months('short'), Info.weekdays(), Info.meridiems()],
    ['Europe/Berlin', 'Mars/Base'].map((zone) => IANAZone.isValidZone(zone)),
  ];
}
