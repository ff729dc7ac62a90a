# The image of the managers, of dpu-detector and hostnetwork. dms is in it, but not the programs that it drives cards with. Pods on
# hosts are made root in their manifests; nothing else needs to be. The manager asks bash, which is in it, whether a flavor's lines are complete.
FROM python:3.11-slim

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /opt/dpf

COPY requirements.lock ./
RUN pip install --no-cache-dir --no-deps -r requirements.lock

COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation --editable .

USER 65532:65532
CMD ["provisioning-manager", "--help"]
