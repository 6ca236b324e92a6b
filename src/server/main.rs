//! The program `oriel`: reads the command line and hands it to the one who does it.

use std::process::ExitCode;

use clap::Parser;
use oriel_server::cli::{Cli, Command, ConfigArgs, DoctorArgs, SettingArgs};
use oriel_server::client::{Client, Patience};
use oriel_server::settings::Settings;
use oriel_server::traces::Recording;
use oriel_server::{
    audit, backup, doctor, import, installation, keys, operations, read_models, serve, settings, telemetry,
};

/// Rows are made by one thread and dropped by another, in many small pieces.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
        Command::Doctor(DoctorArgs { url: Some(url), .. }) => ready(&url).await,
        Command::Doctor(args) => {
            with_settings(&args.settings, |settings| async move { doctor::run(&settings).await }).await
        }
        Command::Serve(args) => {
            with_settings(&args.settings, |settings| async move { serve::run(settings, args.demo).await }).await
        }
        Command::Migrate(args) => {
            let report = args.reporting_role.zip(args.organization);
            with_settings(&args.settings, |settings| async move { migrate(&settings, report).await }).await
        }
        Command::ReadModels(args) => read_models::run(&args).await,
        Command::Operations(args) => operations::run(&args).await,
        Command::Keys(args) => keys::run(&args).await,
        Command::Audit(args) => audit::run(&args).await,
        Command::Backup(args) => {
            let (folder, keep) = (&args.folder, usize::from(args.keep));
            with_settings(&args.settings, |settings| async move { backup::back_up(&settings, folder, keep).await })
                .await
        }
        Command::Restore(args) => {
            let (folder, name) = (&args.folder, args.backup.as_deref());
            with_settings(&args.settings, |settings| async move { backup::restore(&settings, folder, name).await })
                .await
        }
        Command::Schema => {
            print!("{}", oriel_schema::sdl());
            ExitCode::SUCCESS
        }
        // Taken before there is a runtime, see `main`.
        Command::Extract { .. } => fail("`extract` is started by the server"),
    }
}

async fn with_settings<F: Future<Output = ExitCode>>(args: &SettingArgs, then: impl FnOnce(Settings) -> F) -> ExitCode {
    let loaded = match settings::load(&args.sources(std::env::vars_os())) {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error.to_string()),
    };
    let recording = match Recording::start(&loaded.settings) {
        Ok(recording) => recording,
        Err(error) => return fail(&format!("traces cannot be recorded: {error}")),
    };
    let Settings { log_format, log_level, .. } = &loaded.settings;
    if let Err(error) = telemetry::start_logging(*log_format, log_level, recording.clone()) {
        return fail(&error.to_string());
    }
    loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let ended = then(loaded.settings).await;
    if let Some(recording) = recording {
        recording.end().await;
    }
    ended
}

async fn migrate(settings: &Settings, report: Option<(String, String)>) -> ExitCode {
    let report = report.as_ref().map(|(role, organization)| (role.as_str(), organization.as_str()));
    match installation::migrate(settings, report).await {
        Ok(0) => println!("The database is up to date."),
        Ok(applied) => println!("{applied} migrations were applied."),
        Err(error) => return fail(&error.to_string()),
    }
    if let Some((role, organization)) = report {
        println!("The role {role} reads what is reported on {organization}.");
    }
    ExitCode::SUCCESS
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
