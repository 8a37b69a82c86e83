"""Serve searching and reading on its own, or open the application for another process."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack

from nestvec.adapters.opening import open_shared_store
from nestvec.adapters.redis_acl import StoreRole
from nestvec.admin.app import StoredCatalogue
from nestvec.coarse.main import open_shards
from nestvec.config import ClassSection, Settings
from nestvec.core.members import MemberRole
from nestvec.core.ports import (
    Carrying,
    Catalogue,
    Encoders,
    KnownRegion,
    PairScorer,
    PrefixCopies,
    Reranker,
    Shards,
    Staleness,
    VectorStore,
)
from nestvec.core.regions import RegionMap, RegionPolicy
from nestvec.cross.main import open_cross_encoder
from nestvec.encoder import servicer as encoder_servicer
from nestvec.encoder.main import open_encoders
from nestvec.fanout.main import open_writers
from nestvec.quality import servicer as quality_servicer
from nestvec.quality.live import LiveRecall
from nestvec.quality.main import open_live_recall
from nestvec.query import servicer
from nestvec.query.app import QueryApp
from nestvec.query.documents import Documents
from nestvec.query.kept import KeptEncoders
from nestvec.query.other_regions import OtherRegions, RegionRules
from nestvec.query.plan import Limits, SearchClass
from nestvec.query.prefixes import PrefixSearch
from nestvec.query.sampled import AnswerSampler
from nestvec.query.shadow import ShadowAsker
from nestvec.regions.main import open_others, region_map, region_room
from nestvec.replication.main import open_carrier, open_staleness
from nestvec.replication.prefixes import prefixes_wanted
from nestvec.rerank.main import open_reranker
from nestvec.rpc.forwarding import forwarded
from nestvec.rpc.server import Mounted
from nestvec.serving import run_main
from nestvec.v1 import admin_pb2, ingest_pb2, migration_pb2, region_pb2


def search_classes(settings: Settings) -> list[SearchClass]:
    """The configured classes."""
    return [_search_class(name, one) for name, one in settings.classes.items()]


def _search_class(name: str, section: ClassSection) -> SearchClass:
    values = section.model_dump()
    return SearchClass(name, **values | {"regions": RegionPolicy(section.regions)})


def open_documents(settings: Settings, catalogue: Catalogue, store: VectorStore) -> Documents:
    """The reader of documents, with the settings' limits."""
    cache_bytes = settings.store.payload_cache_bytes
    return Documents(catalogue, store, settings.limits.max_ids, cache_bytes)


def query_app(
    settings: Settings,
    catalogue: Catalogue,
    encoders: Encoders,
    shards: Shards,
    reranker: Reranker,
    documents: Documents,
    cross_encoder: PairScorer | None,
    live: LiveRecall | None = None,
    carrying: Carrying | None = None,
    shadow: ShadowAsker | None = None,
    regions: OtherRegions | None = None,
) -> QueryApp:
    """The application, with the settings' classes and limits. live: what is told of a sample.
    regions: the others, where this deployment is one of several.
    """
    limits = Limits(**settings.limits.model_dump(exclude={"max_ids"}))
    kept = KeptEncoders(encoders, settings.encoder.query_cache_bytes)
    sampler = None
    if live is not None:
        sampler = AnswerSampler(settings.live_recall.sample, live.take, live.pass_over)
    return QueryApp(
        catalogue,
        kept,
        shards,
        reranker,
        documents,
        search_classes(settings),
        limits,
        cross_encoder,
        sampler,
        carrying,
        shadow,
        regions,
    )


def other_regions(
    settings: Settings,
    regions: RegionMap | None,
    others: Mapping[str, KnownRegion],
    staleness: Staleness | None,
    prefixes: PrefixCopies | None = None,
) -> OtherRegions | None:
    """For searches of what regions share; None where the deployment is no region. others: by name,
    the nearest first.
    """
    if regions is None:
        return None
    rules = RegionRules(settings.regions.whole_within_s, settings.regions.inline_bytes)
    return OtherRegions(regions, list(others.values()), staleness, rules, prefixes)


def open_prefixes(
    settings: Settings,
    regions: RegionMap | None,
    others: Mapping[str, KnownRegion],
    staleness: Staleness | None,
    catalogue: StoredCatalogue,
    shards: Shards,
    documents: Documents,
) -> PrefixCopies | None:
    """Searches of copies of prefixes; None where the map asks for none."""
    if staleness is None or not prefixes_wanted(regions):
        return None
    within_s = settings.regions.whole_within_s
    return PrefixSearch(catalogue, shards, documents, others, staleness, within_s)


def open_shadow(
    catalogue: StoredCatalogue, store: VectorStore, stack: AsyncExitStack
) -> ShadowAsker:
    """For while a collection moves to another model; `stack` ends what it asks."""
    asker = ShadowAsker(catalogue, store)
    stack.push_async_callback(asker.close)
    return asker


async def mounted(settings: Settings, stack: AsyncExitStack) -> list[Mounted]:
    """What a process of this application offers."""
    store = await open_shared_store(settings.store, stack, StoreRole.QUERY)
    catalogue = StoredCatalogue(store)
    documents = open_documents(settings, catalogue, store)
    encoders = await open_encoders(settings, stack)
    shards = await open_shards(settings, store, stack)
    live = open_live_recall(settings, store, shards, stack)
    reranker = await open_reranker(settings, store, stack)
    regions = region_map(settings)
    staleness = None if regions is None else open_staleness(store, regions, stack)
    others = open_others(settings, regions, stack)
    app = query_app(
        settings,
        catalogue,
        encoders,
        shards,
        reranker,
        documents,
        await open_cross_encoder(settings, stack),
        live,
        open_carrier(store, catalogue, regions),
        open_shadow(catalogue, store, stack),
        other_regions(
            settings,
            regions,
            others,
            staleness,
            open_prefixes(settings, regions, others, staleness, catalogue, shards, documents),
        ),
    )
    catalogue.start()
    stack.push_async_callback(catalogue.close)
    catalogue.tell(encoders.expect)
    await catalogue.refresh()
    cap_s = settings.server.deadline_cap_s
    own = [servicer.mount(app, documents, cap_s), quality_servicer.mount(live)]
    own += region_room(
        settings, regions, catalogue, app, reranker, documents, store, stack, staleness
    )
    if settings.cluster.name is None:
        return own
    return own + await _front_end(settings, encoders, stack)


async def _front_end(
    settings: Settings, encoders: Encoders, stack: AsyncExitStack
) -> list[Mounted]:
    """In a cluster callers need one address: what others do is passed on to them."""
    writers = await open_writers(settings, stack)
    return [
        forwarded(ingest_pb2.DESCRIPTOR, "IngestService", writers.pick),
        forwarded(admin_pb2.DESCRIPTOR, "AdminService", writers.pick),
        forwarded(migration_pb2.DESCRIPTOR, "MigrationService", writers.pick),
        forwarded(region_pb2.DESCRIPTOR, "RegionAdminService", writers.pick),
        encoder_servicer.mount(encoders, settings.server.deadline_cap_s),
    ]


if __name__ == "__main__":
    raise SystemExit(run_main(mounted, "searching and reading", MemberRole.QUERY))
