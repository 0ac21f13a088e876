# One image for the service and both example apps; docker-compose.yml says what each runs.
FROM python:3.12-slim

WORKDIR /srv/noukai
COPY pyproject.toml README.md LICENSE ./
COPY noukai_sdk ./noukai_sdk
RUN pip install --no-cache-dir ".[fastapi,flask,backend,postgres,cli]" gunicorn
COPY example_apps ./example_apps

RUN useradd --system --no-create-home noukai && install -d -o noukai /data /keys
USER noukai

EXPOSE 8080 8000 8001
CMD ["noukai", "serve", "--host", "0.0.0.0", "--port", "8080"]
