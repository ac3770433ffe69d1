"""`GET /metrics`: what Prometheus reads."""

from fastapi import APIRouter, Request, Response

router = APIRouter()


@router.get("/metrics", response_class=Response, tags=["operation"])
async def metrics(request: Request) -> Response:
    """Counters, gauges and histograms in the text format of Prometheus."""
    body, content_type = request.app.state.server.metrics.render()
    return Response(body, headers={"content-type": content_type})
