//! Is a bad record before a good one rot? Right after a power cut not always: what was not flushed
//! survives in any order. With the durable mark in each record it is.

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rule {
    /// A bad record before a good one is rot.
    GoodBehind,
    /// A bad record that a later one's mark covers is rot.
    Mark,
}

const RECORDS: usize = 5;

/// For every history of flushes, surviving subset and rotten record: how often a torn write is called rot.
fn false_alarms(rule: Rule) -> (usize, usize) {
    let (mut tried, mut wrong) = (0, 0);
    for durable in 0..=RECORDS {
        for history in 0..1u32 << durable.saturating_sub(1) {
            // How much was flushed when a record was written.
            let mark = |record: usize| {
                let flushes = (1..durable).filter(|at| history >> (at - 1) & 1 == 1).chain([durable]);
                flushes.filter(|at| *at <= record).max().unwrap_or(0)
            };
            for survived in 0..1u32 << (RECORDS - durable) {
                for rotten in (0..durable).map(Some).chain([None]) {
                    tried += 1;
                    let good = |record: usize| {
                        let written = record < durable || survived >> (record - durable) & 1 == 1;
                        written && rotten != Some(record)
                    };
                    let Some(bad) = (0..RECORDS).find(|record| !good(*record)) else { continue };
                    let mut later = (bad + 1..RECORDS).filter(|record| good(*record));
                    let is_rot = match rule {
                        Rule::GoodBehind => later.next().is_some(),
                        Rule::Mark => later.any(|record| mark(record) > bad),
                    };
                    wrong += usize::from(is_rot && bad >= durable);
                }
            }
        }
    }
    (tried, wrong)
}

#[test]
fn durable_mark_tells_rot_from_a_torn_tail() {
    let (tried, wrong) = false_alarms(Rule::GoodBehind);
    assert!(tried > 300 && wrong > 0, "the simpler rule is known to fail: {wrong} of {tried}");
    assert_eq!(false_alarms(Rule::Mark), (tried, 0));
}
