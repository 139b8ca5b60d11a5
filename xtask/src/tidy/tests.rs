//! Each rule on a small made-up tree.

use std::fs;
use std::path::PathBuf;

use super::{Report, run};

/// A workspace in a temporary folder, removed when dropped.
struct Tree {
    root: PathBuf,
}

impl Tree {
    /// A workspace of `types`, `platform`, `client` and the root program, without findings.
    fn new(name: &str) -> Tree {
        let root = std::env::temp_dir().join(format!("bixi-tidy-{}-{name}", std::process::id()));
        let tree = Tree { root };
        tree.write(
            "Cargo.toml",
            "[workspace]\nmembers = ['types', 'platform', 'client']\n[workspace.dependencies]\n\
             types = { path = 'types' }\nplatform = { path = 'platform' }\nclient = { path = 'client' }\n\
             tokio = '1'\nring = '0.17'\nio-uring = '0.7'\nprost-old = { package = 'prost', version = '0.11' }\n\
             tls = { package = 'rustls', version = '0.23' }\n\
             [package]\nname = 'bixi'\n[dependencies]\nclient.workspace = true\ntokio.workspace = true\n",
        );
        tree.write("src/main.rs", "//! The program.\nuse tokio::sync::mpsc;\nfn main() {}\n");
        tree.member("types", "");
        tree.member("platform", "types.workspace = true\ntokio.workspace = true\nio-uring.workspace = true\n");
        tree.member("client", "types.workspace = true\nplatform = { path = '../platform' }\ntokio.workspace = true\n");
        tree
    }

    fn member(&self, folder: &str, dependencies: &str) {
        self.write(
            &format!("{folder}/Cargo.toml"),
            &format!("[package]\nname = 'bixi-{folder}'\n[dependencies]\n{dependencies}"),
        );
        self.write(&format!("{folder}/src/lib.rs"), "//! A crate.\n");
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn report(&self) -> Report {
        run(&self.root).unwrap()
    }

    /// The findings as lines `place: text`.
    fn findings(&self) -> Vec<String> {
        self.report().findings.into_iter().map(|finding| format!("{}: {}", finding.place, finding.text)).collect()
    }

    /// Asserts that there is one finding, with these parts.
    fn assert_one(&self, parts: &[&str]) {
        let findings = self.findings();
        assert_eq!(findings.len(), 1, "{findings:?}");
        for part in parts {
            assert!(findings[0].contains(part), "{part} in {findings:?}");
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.root).unwrap();
    }
}

#[test]
fn a_tidy_tree_has_no_findings() {
    let tree = Tree::new("tidy");
    tree.write("platform/src/lib.rs", "//! P.\nmod disk;\nuse io_uring::IoUring;\nuse tokio::{net, time::sleep};\n");
    tree.write("platform/src/disk.rs", "//! D.\nmod file { mod deep; }\n// todo!() is only named here\n");
    tree.write("platform/src/disk/file/deep.rs", "//! E.\nconst TEXT: &str = \"dbg!(io_uring::x)\";\n");
    tree.write("platform/tests/contract.rs", "//! T.\nmod shared;\n");
    tree.write("platform/tests/shared/mod.rs", "//! S.\n");
    tree.write("client/src/bin/tool.rs", "//! B.\nfn main() { tokio::select! { biased; _ = x => {} } }\n");
    assert_eq!(tree.findings(), Vec::<String>::new());
    assert!(tree.report().is_good());
    assert!(tree.report().to_string().contains("9 files, 0 errors"));
}

#[test]
fn a_dependency_must_lead_to_a_lower_floor() {
    let tree = Tree::new("floor-up");
    tree.member("types", "[dev-dependencies]\nplatform.workspace = true\n");
    tree.assert_one(&["types/Cargo.toml", "floor 0 depends on `platform` of floor 2"]);
    let tree = Tree::new("floor-target");
    tree.member("platform", "[target.'cfg(unix)'.dependencies]\nclient = { path = '../client' }\n");
    tree.assert_one(&["platform/Cargo.toml", "floor 2 depends on `client` of floor 4"]);
}

#[test]
fn a_member_must_have_a_floor() {
    let tree = Tree::new("no-floor");
    tree.member("common", "");
    let manifest = fs::read_to_string(tree.root.join("Cargo.toml")).unwrap();
    tree.write("Cargo.toml", &manifest.replace("'client']", "'client', 'common']"));
    tree.assert_one(&["common/Cargo.toml", "has no floor"]);
}

#[test]
fn a_foreign_package_is_listed_only_by_its_door() {
    let tree = Tree::new("door-manifest");
    tree.member("client", "ring.workspace = true\n");
    tree.assert_one(&["client/Cargo.toml", "`ring` has its door in crypto/"]);
    tree.member("client", "tls.workspace = true\n");
    tree.assert_one(&["client/Cargo.toml", "`tls` has its door in platform/"]);
    tree.member("client", "prost-old.workspace = true\n");
    tree.assert_one(&["client/Cargo.toml", "`prost-old` has its door in metaserver/src/consensus"]);
}

#[test]
fn a_foreign_package_is_named_only_in_its_door() {
    let tree = Tree::new("door-source");
    tree.member("platform", "ring.workspace = true\n");
    for (text, line) in [
        ("use ring::rand;\n", 2),
        ("\nfn f() { ring::rand::f(); }\n", 3),
        ("use {std::fs, ring};\n", 2),
        ("use ::ring::rand;\n", 2),
    ] {
        tree.write("platform/src/lib.rs", &format!("//! P.\n{text}"));
        tree.assert_one(&[&format!("platform/src/lib.rs:{line}: `ring` has its door in")]);
    }
    for text in ["use crate::ring;\nfn f() { ring::g(); }\n", "fn ring() {}\n", "/// ring::rand\nfn f() {}\n"] {
        tree.write("platform/src/lib.rs", &format!("//! P.\n{text}"));
        assert_eq!(tree.findings(), Vec::<String>::new());
    }
    tree.write("platform/src/lib.rs", "//! P.\nmod random_source;\n");
    tree.write("platform/src/random_source.rs", "//! R.\nuse ring::rand;\n");
    assert_eq!(tree.findings(), Vec::<String>::new());
}

#[test]
fn what_touches_the_machine_in_tokio_is_named_only_in_platform() {
    let tree = Tree::new("door-tokio");
    tree.write("client/src/lib.rs", "//! C.\nuse tokio::{sync::mpsc,\n    time::sleep};\n");
    tree.assert_one(&["client/src/lib.rs:3: `tokio::time` has its door in platform/"]);
    tree.write("client/src/lib.rs", "//! C.\nfn f() { tokio::spawn(g()); }\n");
    tree.assert_one(&["client/src/lib.rs:2: `tokio::spawn` has its door in platform/"]);
    let tree = Tree::new("door-program");
    tree.write("src/main.rs", "//! M.\nuse tokio::sync::Notify;\nuse tokio::time_util::X;\n");
    tree.assert_one(&["src/main.rs:3", "tokio::sync and tokio::io only, not tokio::time_util"]);
    tree.write("src/main.rs", "//! M.\nuse tokio::net::TcpStream;\n");
    tree.assert_one(&["src/main.rs:2", "`tokio::net` has its door in platform/"]);
}

#[test]
fn every_file_opens_with_a_header() {
    let tree = Tree::new("header");
    tree.write("types/src/lib.rs", "// Not a header.\n");
    tree.assert_one(&["types/src/lib.rs: does not open with a module header"]);
}

#[test]
fn a_file_that_no_mod_line_reaches_is_dead() {
    let tree = Tree::new("dead");
    tree.write("types/src/lib.rs", "//! T.\nmod alive;\n");
    tree.write("types/src/alive.rs", "//! A.\n// mod dead;\n");
    tree.write("types/src/alive/dead.rs", "//! D.\n");
    tree.assert_one(&["types/src/alive/dead.rs: no `mod` line leads here"]);
    tree.write("types/src/alive.rs", "//! A.\n#[path = \"alive/dead.rs\"]\nmod dead;\n");
    tree.assert_one(&["types/src/alive.rs:2: `#[path]`"]);
}

#[test]
fn unfinished_code_and_unordered_selects_are_errors() {
    let tree = Tree::new("unfinished");
    for (code, name) in [
        ("fn f() { todo!(\"later\") }", "`todo!`"),
        ("fn f() { unimplemented!() }", "`unimplemented!`"),
        ("fn f() { dbg!(1); }", "`dbg!`"),
        ("#[ignore = \"slow\"]\nfn f() {}", "`#[ignore`"),
        ("fn f() { tokio::select! { _ = x => {} } }", "`select!` without"),
    ] {
        tree.write("types/src/lib.rs", &format!("//! T.\n{code}\n"));
        tree.assert_one(&["types/src/lib.rs:2", name]);
    }
}

#[test]
fn long_files_are_warned_of_and_very_long_ones_refused() {
    let tree = Tree::new("long");
    let text = |lines: usize| "//! T.\n".repeat(lines);
    tree.write("types/src/lib.rs", &text(600));
    assert_eq!(tree.findings(), Vec::<String>::new());
    tree.write("types/src/lib.rs", &text(601));
    tree.assert_one(&["types/src/lib.rs: 601 lines"]);
    assert!(tree.report().is_good());
    tree.write("types/src/lib.rs", &text(1101));
    tree.assert_one(&["types/src/lib.rs: 1101 lines"]);
    assert!(!tree.report().is_good());
}
