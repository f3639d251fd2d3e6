//! Views whose result depends on the order in which rows come: sums of floating-point numbers, arrays without
//! ORDER BY. There is no single right result to compare with; what does not depend on the order has to be right.

use cluster_tests::Scratch;

const QUERY: &str = "SELECT sensor, count(*) AS readings, sum(value) AS total, avg(value::float4) AS mean, array_agg(id) AS ids
                       FROM reading GROUP BY sensor";

/// Groups in which more than the order of additions and elements differs.
fn wrong(db: &mut Scratch) -> i64 {
    let sorted = |ids: &str| format!("(SELECT array_agg(id ORDER BY id) FROM unnest({ids}) id)");
    let differs = |column: &str| format!("abs(v.{column} - q.{column}) > 1e-9 * abs(q.{column})");
    db.get(&format!(
        "SELECT count(*) FROM v FULL JOIN ({QUERY}) q USING (sensor)
          WHERE v.readings IS DISTINCT FROM q.readings OR {} IS DISTINCT FROM {} OR {} OR {}",
        sorted("v.ids"),
        sorted("q.ids"),
        differs("total"),
        differs("mean"),
    ))
}

#[test]
fn a_view_that_depends_on_the_order_of_rows_is_right_but_for_that() {
    let mut db = Scratch::new("diff_unordered");
    db.run(&format!(
        "SELECT setseed(0.5);
         CREATE TABLE reading (id int PRIMARY KEY, sensor int NOT NULL, value float8 NOT NULL);
         INSERT INTO reading SELECT i, i % 50, random() * 10 ^ (i % 12) FROM generate_series(1, 5000) i;
         CREATE MATERIALIZED VIEW v AS {QUERY};
         CREATE UNIQUE INDEX ON v (sensor)"
    ));
    for round in 0..12 {
        // Another plan brings the rows in another order.
        let hashed = if round % 2 == 0 { "on" } else { "off" };
        db.run(&format!(
            "SET enable_hashagg = {hashed};
             UPDATE reading SET value = value * 1.1 WHERE id % 13 = {round};
             DELETE FROM reading WHERE sensor = {round};
             UPDATE reading SET sensor = sensor + 50 WHERE id % 97 = {round}"
        ));
        assert_ne!(wrong(&mut db), 0, "round {round} changes something");
        let method: String = db.get("SELECT method FROM cache_refresher.refresh('v')");
        assert_eq!((method.as_str(), wrong(&mut db)), ("diff", 0), "round {round}");
    }
}
