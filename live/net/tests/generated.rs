//! The committed Rust of `proto/link.proto` is what the generator makes of it today.
//!
//! `OL_NET_REGENERATE=1 cargo test -p ol-net --test generated` rewrites it.

use std::path::Path;

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    let descriptors = protox::compile([root.join("proto/link.proto")], [root.join("proto")]).unwrap();
    tonic_prost_build::configure()
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .out_dir(out.path())
        .compile_fds(descriptors)
        .unwrap();
    let generated = std::fs::read_to_string(out.path().join("openledger.link.v1.rs")).unwrap();
    let committed = root.join("src/generated/link.rs");
    if std::env::var_os("OL_NET_REGENERATE").is_some() {
        std::fs::write(&committed, &generated).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&committed).unwrap(), generated, "link.rs is not of this link.proto");
}
