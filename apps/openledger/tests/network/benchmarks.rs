//! Benchmarks end, and say what they measured: their figures are nobody's business here.

use crate::process::run;

#[test]
#[ignore = "needs the machine to itself"]
fn a_gateway_is_measured_with_audits_and_every_task_has_its_receipt() {
    let ended = run(&["bench", "gateway", "--rounds", "1", "--seconds", "0.1", "--json"]);
    assert!(ended.status.success(), "{}", ended.err);
    let record = ended.json();
    let figure = |name: &str| record[name].as_u64().unwrap();
    // An attempt that was overtaken, or asked in vain, has one too.
    assert!(figure("tasks") > 0 && figure("receipts_logged") >= figure("tasks"), "{record}");
    assert!(figure("audits_drawn") > 0 && figure("audits_passed") == figure("audits_drawn"), "{record}");
}
