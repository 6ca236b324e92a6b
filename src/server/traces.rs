//! To which trace the work of this process belongs, and its spans on their way to a collector (OTLP over HTTP).
//!
//! Without `otlp_endpoint` nothing is recorded: a request carries the place in the trace that its client named, and
//! hands it on to the servers that it asks. With it, spans at DEBUG with the target [`TARGET`] and those of SQL
//! statements are recorded: query texts, never values.

use std::cell::Cell;

use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, SdkTracer, SdkTracerProvider, ShouldSample,
};
use oriel_kernel::EventId;
use oriel_kernel::trace::{Place, TARGET, Tracer, span_of};
use tracing::{Level, Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Registry;
use tracing_subscriber::registry::LookupSpan;
use uuid::Uuid;

use crate::settings::Settings;

/// The target of the spans of SQL statements.
const STATEMENTS: &str = "sea_orm";

/// Records spans and sends them, until it is ended.
#[derive(Clone)]
pub struct Recording {
    provider: SdkTracerProvider,
    sampler: Sampler,
}

impl Recording {
    /// As the settings want it; `None`: nothing is recorded.
    ///
    /// # Errors
    /// When the endpoint is none.
    pub fn start(settings: &Settings) -> Result<Option<Self>, ExporterBuildError> {
        let Some(endpoint) = &settings.otlp_endpoint else { return Ok(None) };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{endpoint}/v1/traces"))
            .build()?;
        let sampler = Sampler::TraceIdRatioBased(1.0 / f64::from(settings.otlp_one_in));
        let resource = Resource::builder()
            .with_service_name("oriel")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", Uuid::now_v7().to_string()))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(sampler.clone())))
            .with_id_generator(Ids(RandomIdGenerator::default()))
            .with_resource(resource)
            .build();
        Ok(Some(Self { provider, sampler }))
    }

    /// For the layer that makes spans of those of `tracing`.
    pub fn tracer(&self) -> SdkTracer {
        self.provider.tracer("oriel")
    }

    /// Sends what is left. It waits for the collector, a bounded time.
    pub async fn end(self) {
        let ended = tokio::task::spawn_blocking(move || self.provider.shutdown()).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
    }

    /// The place as one of another process. What nobody has asked to record is recorded or not by the id of its trace:
    /// whole, or not at all.
    fn remote(&self, place: Place) -> SpanContext {
        let trace = TraceId::from(place.trace.as_u128());
        let sampled = || {
            let asked = self.sampler.should_sample(None, trace, "", &SpanKind::Internal, &[], &[]);
            asked.decision == SamplingDecision::RecordAndSample
        };
        let flags = if sampled() { TraceFlags::SAMPLED } else { TraceFlags::new(place.flags) };
        SpanContext::new(trace, SpanId::from(place.span), flags, true, TraceState::default())
    }
}

/// Whether a span is recorded.
pub fn is_recorded(metadata: &Metadata<'_>) -> bool {
    let is_ours = metadata.target() == TARGET && *metadata.level() == Level::DEBUG;
    let is_statement = metadata.target().starts_with(STATEMENTS) && *metadata.level() <= Level::INFO;
    metadata.is_span() && (is_ours || is_statement)
}

thread_local! {
    /// The ids of the span that begins next on this thread, where they are not random.
    static GIVEN: Cell<(Option<TraceId>, Option<SpanId>)> = const { Cell::new((None, None)) };
}

/// Ids of spans: random, unless another was given.
#[derive(Debug)]
struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        GIVEN.get().0.unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        GIVEN.get().1.unwrap_or_else(|| self.0.new_span_id())
    }
}

/// Begins a span with these ids.
fn begin(span: &Span, trace: Option<TraceId>, id: Option<SpanId>) {
    GIVEN.set((trace, id));
    // It is asked for its ids, and so gets them now.
    let _ = span.context();
    GIVEN.set((None, None));
}

fn place(context: &SpanContext) -> Option<Place> {
    let trace = Uuid::from_bytes(context.trace_id().to_bytes());
    let span = u64::from_be_bytes(context.span_id().to_bytes());
    context.is_valid().then_some(Place { trace, span, flags: context.trace_flags().to_u8() })
}

impl Tracer for Recording {
    fn follow(&self, span: &Span, place: Place) {
        if place.span == 0 {
            return begin(span, Some(TraceId::from(place.trace.as_u128())), None);
        }
        // It fails for spans that are not recorded, which need no parent.
        let _ = span.set_parent(Context::new().with_remote_span_context(self.remote(place)));
    }

    fn link(&self, span: &Span, place: Place) {
        span.add_link(self.remote(place));
    }

    fn identify(&self, span: &Span, event: EventId) {
        begin(span, None, Some(SpanId::from(span_of(event))));
    }

    fn current(&self) -> Option<Place> {
        place(Span::current().context().span().span_context())
    }
}

/// Records nothing, and hands on what clients have named.
pub struct Unrecorded;

impl Tracer for Unrecorded {
    fn follow(&self, span: &Span, place: Place) {
        span.with_subscriber(|(id, dispatch)| {
            let span = dispatch.downcast_ref::<Registry>()?.span(id)?;
            span.extensions_mut().replace(place);
            Some(())
        });
    }

    fn link(&self, _: &Span, _: Place) {}

    fn identify(&self, _: &Span, _: EventId) {}

    fn current(&self) -> Option<Place> {
        let found = Span::current().with_subscriber(|(id, dispatch)| {
            let span = dispatch.downcast_ref::<Registry>()?.span(id)?;
            span.scope().find_map(|span| span.extensions().get::<Place>().copied())
        });
        let place = found.flatten()?;
        // A span has to be named, though there is none.
        let span = if place.span == 0 { Uuid::new_v4().as_u64_pair().1 } else { place.span };
        Some(Place { span, ..place })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::SpanData;
    use tracing_subscriber::prelude::*;

    use super::*;

    #[derive(Clone, Default, Debug)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl opentelemetry_sdk::trace::SpanExporter for Kept {
        async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(spans);
            Ok(())
        }
    }

    #[test]
    fn what_is_not_recorded_is_handed_on_as_it_came() {
        let trace = Uuid::from_u128(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            assert_eq!(Unrecorded.current(), None, "nothing was named");
            let named = Place { trace, span: 7, flags: 1 };
            let outer = tracing::info_span!("outer");
            Unrecorded.follow(&outer, named);
            let inner = outer.in_scope(|| tracing::info_span!("inner"));
            assert_eq!(inner.in_scope(|| Unrecorded.current()), Some(named));
            let begun = tracing::info_span!("begun");
            Unrecorded.follow(&begun, Place::start(trace));
            let (one, other) = begun.in_scope(|| (Unrecorded.current().unwrap(), Unrecorded.current().unwrap()));
            assert!(one.trace == trace && one.span != 0 && one != other, "{one} {other}");
        });
    }

    #[test]
    fn the_span_of_an_event_is_found_again_by_who_knows_the_event() {
        let kept = Kept::default();
        let sampler = Sampler::AlwaysOn;
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(kept.clone())
            .with_id_generator(Ids(RandomIdGenerator::default()))
            .build();
        let recording = Recording { provider, sampler };
        let layer = tracing_opentelemetry::layer().with_tracer(recording.tracer());
        let event = EventId::from_uuid(Uuid::now_v7());
        let trace = Uuid::new_v4();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let root = tracing::info_span!("request");
            recording.follow(&root, Place::start(trace));
            root.in_scope(|| recording.identify(&tracing::info_span!("event"), event));
            let reaction = tracing::info_span!("reaction");
            recording.follow(&reaction, Place { trace, span: span_of(event), flags: 0 });
        });
        let spans = kept.0.lock().unwrap();
        let find = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
        let (root, written, reaction) = (find("request"), find("event"), find("reaction"));
        assert_eq!(root.span_context.trace_id(), TraceId::from(trace.as_u128()));
        assert_eq!(written.parent_span_id, root.span_context.span_id());
        assert_eq!(reaction.parent_span_id, written.span_context.span_id());
        assert!(spans.iter().all(|span| span.span_context.trace_id() == root.span_context.trace_id()));
    }
}
