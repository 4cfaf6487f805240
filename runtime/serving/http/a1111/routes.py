"""The routes of A1111's API."""

from fastapi import APIRouter

from latentrt.runtime.serving.http.a1111 import controls, drawing, extras, listings, png_info

router = APIRouter(tags=["A1111"])
for part in (drawing, controls, listings, png_info, extras):
    router.include_router(part.router)
