# A service of one bundle: docker build --target cpu -t pointsman . (or --target cuda)
# docker run -p 127.0.0.1:8000:8000 -v $PWD/build/demo:/bundle:ro -v $PWD/keys:/keys:ro pointsman
FROM python:3.13-slim AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY runtime runtime
COPY export export
COPY calib calib
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim AS base
COPY constraints.txt /
COPY --from=wheel /wheels /wheels
RUN useradd --uid 65532 --no-create-home pointsman
EXPOSE 8000
# SIGTERM lets it answer what it has taken.
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=120s CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/v2/health/ready')"]
ENTRYPOINT ["pointsman", "serve"]
CMD ["/bundle", "--host", "0.0.0.0", "--api-keys", "/keys/api-keys"]

# The wheels of onnxruntime-gpu bring CUDA; the host brings the driver.
FROM base AS cuda
RUN pip install --no-cache-dir --constraint /constraints.txt "$(echo /wheels/*.whl)[gpu,serve]"
USER 65532

FROM base AS cpu
RUN pip install --no-cache-dir --constraint /constraints.txt "$(echo /wheels/*.whl)[cpu,serve]"
USER 65532
