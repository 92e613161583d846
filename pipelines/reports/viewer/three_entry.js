// What the viewer uses of three.js. The bundle beside this file was built from it with
//   npm install three@0.187.0 esbuild@0.28.2
//   npx esbuild three_entry.js --bundle --minify --format=iife --global-name=THREE
//     --target=es2020 --legal-comments=inline --outfile=three.min.js
export {
  BufferAttribute,
  BufferGeometry,
  DepthTexture,
  Mesh,
  PerspectiveCamera,
  PlaneGeometry,
  Points,
  Scene,
  ShaderMaterial,
  Spherical,
  Vector2,
  Vector3,
  WebGLRenderTarget,
  WebGLRenderer,
} from "three";
export { OrbitControls } from "three/addons/controls/OrbitControls.js";
