from nestvec.client import AsyncNestvecClient as AsyncNestvecClient
from nestvec.client import IngestDocument as IngestDocument
from nestvec.client import NestvecClient as NestvecClient

__version__: str
