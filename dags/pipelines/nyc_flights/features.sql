-- One row per flight that arrived. Only what is known at departure, and of other flights only what
-- was known two hours before.
SELECT
  f.time_hour,
  f.carrier,
  f.flight,
  f.origin,
  f.dest,
  f.month,
  dayofweek(make_date(f.year, f.month, f.day)) AS day_of_week,
  (f.sched_dep_time DIV 100) * 60 + f.sched_dep_time % 100 AS sched_dep_minute,
  (f.sched_arr_time DIV 100) * 60 + f.sched_arr_time % 100 AS sched_arr_minute,
  f.distance,
  count(*) OVER (PARTITION BY f.origin, f.time_hour) AS departures_hour,
  avg(f.dep_delay) OVER (
    PARTITION BY f.origin ORDER BY unix_seconds(f.time_hour)
    RANGE BETWEEN 14400 PRECEDING AND 7200 PRECEDING) AS origin_delay,
  avg(f.dep_delay) OVER (
    PARTITION BY f.origin ORDER BY unix_seconds(f.time_hour)
    RANGE BETWEEN 43200 PRECEDING AND 7200 PRECEDING) AS origin_delay_long,
  w.temp,
  w.dewp,
  w.humid,
  w.wind_dir,
  w.wind_speed,
  w.precip,
  w.pressure,
  w.visib,
  f.year - p.year AS plane_age,
  p.seats,
  p.manufacturer,
  f.arr_delay > 15 AS late
FROM flights f
LEFT JOIN weather w ON w.origin = f.origin AND w.time_hour = f.time_hour
LEFT JOIN planes p ON p.tailnum = f.tailnum
