//! The program `oriel`: reads the command line and hands it to the one who does it.

use std::process::ExitCode;

use clap::Parser;
use oriel_server::cli::{Cli, Command, ConfigArgs};
use oriel_server::client::{Client, Patience};
use oriel_server::{import, settings};

fn main() -> ExitCode {
    // The child that reads a document takes its limits before any thread exists.
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_some_and(|command| command == "extract") {
        return oriel_backends::extraction::child_main(arguments);
    }
    let command = Cli::parse().command;
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(command)),
        Err(error) => fail(&format!("the runtime cannot be started: {error}")),
    }
}

async fn run(command: Command) -> ExitCode {
    match command {
        Command::Config(args) => config(&args),
        Command::Import(args) => import::run(&args).await,
        Command::Doctor(args) if args.url.is_some() => ready(&args.url.unwrap_or_default()).await,
        other => fail(&format!("{other:?} is not part of this build")),
    }
}

fn config(args: &ConfigArgs) -> ExitCode {
    if !args.effective {
        print!("{}", settings::default_file());
        return ExitCode::SUCCESS;
    }
    match settings::load(&args.settings.sources(std::env::vars_os())) {
        Ok(loaded) => {
            print!("{}", settings::effective(&loaded.chosen));
            loaded.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error.to_string()),
    }
}

async fn ready(url: &str) -> ExitCode {
    let answer = match Client::new(url, None, Patience::default()) {
        Ok(client) => client.ready().await,
        Err(error) => Err(error),
    };
    match answer {
        Ok((true, text)) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Ok((false, text)) => fail(&format!("not ready: {text}")),
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(text: &str) -> ExitCode {
    eprintln!("oriel: {text}");
    ExitCode::FAILURE
}
