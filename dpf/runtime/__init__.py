"""A library for Kubernetes controllers. It knows Kubernetes and nothing of DPUs.

| module | what is there |
|---|---|
| ``meta``, ``k8s`` | shapes that all objects share; the built-in kinds as far as they are read |
| ``client``, ``transport``, ``kubeconfig``, ``credentials`` | the typed client of an API server |
| ``cluster``, ``informer``, ``reflector``, ``wire`` | a cluster's cache, kept by watches, read synchronously |
| ``queue``, ``controller``, ``predicates``, ``finalizers``, ``jobs`` | controllers |
| ``manager``, ``leader``, ``http``, ``metrics``, ``log``, ``options``, ``memory`` | a process |
| ``remote`` | clusters that come and go, a circuit for each |
| ``webhook``, ``certs`` | admission, with certificates of its own making |
| ``conditions``, ``events``, ``errors`` | what is said to users |
| ``testing`` | virtual time, and waiting by watches |

Nothing is imported here, so that whoever needs only the shapes (an API package) does not pay for a client.
"""
