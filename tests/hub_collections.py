"""What the Hub answers about collections, named lists of repos."""

import json

from hub_http import HubConnection, HubError
from hub_store import Collection

DATE = "2026-01-01T00:00:00.000Z"


class CollectionsApi(HubConnection):
    """The routes of collections."""

    def create_collection(self):
        payload = json.loads(self.body)
        self.check_may_write(payload["namespace"])
        slug = f"{payload['namespace']}/{payload['title'].lower().replace(' ', '-')}-0123456789abcdef01234567"
        if slug in self.hub.store.collections:
            return self.json({"slug": slug, "error": "This collection already exists"}, status=409)
        private = bool(payload.get("private"))
        self.hub.store.collections[slug] = Collection(payload["title"], payload["namespace"], private)
        return self.collection(slug)

    def collection(self, slug: str):
        if (found := self.hub.store.collections.get(slug)) is None:
            raise HubError(404, None, "Collection not found")
        items = [
            {"_id": f"{n:024x}", "id": repo_id, "type": kind, "position": n, "note": note and {"text": note}}
            for n, (kind, repo_id, note) in enumerate(found.items)
        ]
        more = {"lastUpdated": DATE, "position": 0, "theme": "green", "upvotes": 0}
        owner = {"name": found.owner}
        return self.json(
            {"slug": slug, "title": found.title, "owner": owner, "private": found.private, "items": items, **more}
        )

    def add_collection_item(self, slug: str):
        payload = json.loads(self.body)
        found, item = self.hub.store.collections[slug], payload["item"]
        self.check_may_write(found.owner)
        if (item["type"], item["id"]) not in self.hub.store.repos:
            raise HubError(404, None, f"there is no {item['type']} {item['id']}")
        if any(repo_id == item["id"] for _, repo_id, _ in found.items):
            raise HubError(409, None, "the item is in the collection already")
        found.items.append((item["type"], item["id"], payload.get("note")))
        return self.collection(slug)
