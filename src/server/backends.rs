//! The servers that Oriel stands on beside its database: how they are, as operators see it, and a beat that asks each
//! of them now and then. So one that nobody needs at the moment is known to be away, and one that is back is found a few
//! seconds later, also while its breaker keeps all others from asking.

use std::sync::Arc;
use std::time::Duration;

use oriel_backends::blobs::Blobs;
use oriel_backends::bus::Bus;
use oriel_backends::identity::IdentityProviders;
use oriel_backends::mail::Mail;
use oriel_backends::redis::Redis;
use oriel_backends::resilience::{Pause, Sources, SystemSources};
use oriel_backends::scanner::Scanner;
use oriel_backends::search::Search;
use oriel_schema::services::BackendState;
use tokio_util::sync::CancellationToken;

/// Between two rounds: of many nodes not all at the same moment.
const BEAT: Pause = Pause { least: Duration::from_secs(6), most: Duration::from_secs(6) };

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Backends {
    /// The search index.
    pub search: Search,
    /// Files.
    pub blobs: Blobs,
    /// Who looks for viruses, where somebody does.
    pub scanner: Option<Scanner>,
    /// Where letters go.
    pub mail: Mail,
    /// Servers of organisations that say who somebody is.
    pub identity: IdentityProviders,
    /// What nodes share.
    pub redis: Option<Arc<Redis>>,
    /// The feed between nodes, where there may be several.
    pub bus: Option<Bus>,
}

impl Backends {
    /// How each of them is; `index_error`: what keeps the index from following the log.
    pub fn states(&self, index_error: Option<String>) -> Vec<BackendState> {
        let search = self.search.health();
        let blobs = self.blobs.health();
        let mail = self.mail.health();
        let mut states = vec![
            BackendState {
                name: "search".to_owned(),
                kind: self.search.name().to_owned(),
                healthy: index_error.is_none() && search.as_ref().is_none_or(|health| health.is_up()),
                last_error: index_error.or_else(|| search.as_ref().and_then(|health| health.last_error.clone())),
                health: search,
            },
            BackendState {
                name: "blobs".to_owned(),
                kind: if blobs.is_some() { "s3" } else { "folder" }.to_owned(),
                healthy: blobs.as_ref().is_none_or(|health| health.is_up()),
                last_error: blobs.as_ref().and_then(|health| health.last_error.clone()),
                health: blobs,
            },
            BackendState {
                name: "mail".to_owned(),
                kind: self.mail.name().to_owned(),
                healthy: mail.as_ref().is_none_or(|health| health.is_up()),
                last_error: mail.as_ref().and_then(|health| health.last_error.clone()),
                health: mail,
            },
        ];
        if let Some(scanner) = &self.scanner {
            let health = scanner.health();
            states.push(BackendState {
                name: "scanner".to_owned(),
                kind: "clamd".to_owned(),
                healthy: health.is_up(),
                last_error: health.last_error.clone(),
                health: Some(health),
            });
        }
        if let Some(health) = self.identity.health() {
            states.push(BackendState {
                name: "identity".to_owned(),
                kind: "oidc".to_owned(),
                // One that is away is its organisation's matter: the installation is not the worse for it.
                healthy: true,
                last_error: health.last_error.clone(),
                health: Some(health),
            });
        }
        if let Some(redis) = &self.redis {
            let health = redis.health();
            let hears = self.bus.as_ref().is_none_or(Bus::is_connected);
            let unheard = (!hears).then(|| "changes of other nodes are not heard, they are looked for".to_owned());
            states.push(BackendState {
                name: "redis".to_owned(),
                kind: redis.kind().to_owned(),
                healthy: health.is_up() && hears,
                last_error: health.last_error.clone().or(unheard),
                health: Some(health),
            });
        }
        states
    }

    /// Asks each of them now and then, until `stop`. What they answer is seen in their health.
    pub async fn beat(self, stop: CancellationToken) {
        loop {
            let redis = async {
                match &self.redis {
                    Some(redis) => redis.ping().await,
                    None => Ok(()),
                }
            };
            let scanner = async {
                match &self.scanner {
                    Some(scanner) => scanner.check().await,
                    None => Ok(()),
                }
            };
            let _ = tokio::join!(self.search.check(), self.blobs.check(), self.mail.check(), scanner, redis);
            let pause = tokio::time::sleep(BEAT.after(0, SystemSources.chance()));
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }
}
