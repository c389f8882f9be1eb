//! kumoctl: shows the state of a cluster and changes it. See [`kumofs::tools::ctl`].

fn main() -> std::process::ExitCode {
    kumofs::tools::ctl::main(std::env::args_os())
}
