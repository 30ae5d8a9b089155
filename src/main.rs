//! The binary `dkv`: hands the command line to [`dkv::cli`]. Never: logic.

fn main() -> std::process::ExitCode {
    dkv::cli::main()
}
