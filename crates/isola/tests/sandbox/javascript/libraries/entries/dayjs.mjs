import dayjs from 'dayjs';
import 'dayjs/locale/de.js';
import duration from 'dayjs/plugin/duration.js';
import relativeTime from 'dayjs/plugin/relativeTime.js';
import timezone from 'dayjs/plugin/timezone.js';
import utc from 'dayjs/plugin/utc.js';

for (const plugin of [duration, relativeTime, timezone, utc]) dayjs.extend(plugin);

/** Converts times between zones, across the changes to daylight saving time too. */
export function main() {
  const times = ['2024-01-15T23:30:00Z', '2024-03-10T06:59:59Z', '2024-03-10T07:00:00Z'];
  const zones = ['America/New_York', 'Europe/Berlin', 'Asia/Kolkata', 'Australia/Lord_Howe'];
  return [
    zones.map((zone) => times.map((time) => dayjs(time).tz(zone).format())),
    zones.map((zone) => dayjs.tz('2024-07-01 00:00', zone).toISOString()),
    dayjs.tz('2024-03-31 01:30', 'Europe/Berlin').add(1, 'hour').format('YYYY-MM-DD HH:mm Z'),
    dayjs.utc('2024-05-01').locale('de').format('dddd, D. MMMM YYYY'),
    dayjs.utc('2024-05-01').to(dayjs.utc('2024-05-04')),
    dayjs.duration({ hours: 50 }).humanize(true),
  ];
}
